"""A corpus and a run folder made by commit ac65c1e, before modules moved, go on working."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from corpus.rows.stream import RowStream
from corpus.shards.manifest import load_manifest
from corpus.shards.shard import verify
from launch.distillation.session import distil_alone
from launch.publishing.student_folder import publish
from tests.processes import ROOT

FINAL = "old/run/checkpoints/step_6/small/model/model.safetensors"


@pytest.fixture(autouse=True)
def old(tmp_path, monkeypatch):
    """The folders as they were, below `old/` of the working folder: the paths that the run noted."""
    shutil.copytree(ROOT / "tests/data/ac65c1e", tmp_path / "old")
    monkeypatch.chdir(tmp_path)


def test_its_corpus_is_whole_and_gives_rows():
    manifest = load_manifest("old/corpus")
    assert list(verify(manifest)) == [] and manifest.totals.documents == 300
    rows = RowStream(manifest, row_tokens=16, seed=17).rows(np.arange(4))
    assert rows.shape == (4, 16) and (rows[:, 0] == manifest.tokenizer.cls_token_id).all()


def test_its_run_is_done_and_its_student_can_be_published():
    assert not distil_alone(Path("old/run/config.json"), "old/run")
    assert publish(Path("old/run"), "small", Path("small")) < 1e-5


def test_its_run_continues_from_a_checkpoint_to_the_student_of_then(capsys):
    before = load_file(FINAL)
    shutil.rmtree("old/run/checkpoints/step_6")
    Path("old/run/done.json").unlink()
    Path("old/run/checkpoints/latest").write_text("step_3")
    assert not distil_alone(Path("old/run/config.json"), "old/run")
    assert "resuming from old/run/checkpoints/step_3" in capsys.readouterr().err
    for name, tensor in load_file(FINAL).items():
        torch.testing.assert_close(tensor, before[name], rtol=1e-3, atol=1e-5)  # another CPU rounds otherwise
