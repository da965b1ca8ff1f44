"""Work that ranks share before training: counting pairs and initialising students."""

import json
import os
import shutil
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist

from corpus.rows.stream import RowStream
from corpus.shards.manifest import load_manifest
from corpus.shards.store import LocalStore
from launch.distillation import students
from launch.distillation.config import CorpusConfig
from launch.distillation.students import layer_notes
from launch.distillation.training import build_stream
from pretrain.models.shape import EncoderShape
from pretrain.students.student import build_student
from tests.pretrain.tiny import spawn, student_config, teacher_model


def count_on_rank(rank: int, corpus: Path, folder: Path) -> None:
    """Writes what was read meanwhile and the rows that came of it, or what was raised."""
    os.environ.update(RANK=str(rank), WORLD_SIZE="3")
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=3, timeout=timedelta(minutes=2))
    manifest, read = load_manifest(corpus), []
    original = LocalStore.read_block
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalStore, "read_block", lambda *given: read.append(given[1:3]) or original(*given))
        try:
            stream = build_stream(manifest, CorpusConfig(manifest=str(corpus), row_tokens=16, rows="pairs"))
            seen = {"read": read[:], "rows": stream.rows(np.arange(stream.rows_per_epoch)).tolist()}
        except ValueError as error:
            seen = {"error": str(error)}
    (folder / f"seen_{rank}.json").write_text(json.dumps(seen))
    dist.destroy_process_group()


def count_on_three(corpus: Path, folder: Path) -> list[dict]:
    folder.mkdir()
    spawn(count_on_rank, (corpus, folder), num_ranks=3)
    return [json.loads((folder / f"seen_{rank}.json").read_text()) for rank in range(3)]


@pytest.mark.job
def test_ranks_share_the_counting_of_pairs(tmp_path, corpus_folder):
    seen = count_on_three(corpus_folder, tmp_path / "sound")
    manifest = load_manifest(corpus_folder)
    blocks = [tuple(block) for one in seen for block in one["read"]]
    assert len(blocks) == len(set(blocks)) == len(manifest.blocks) > 3
    alone = RowStream(manifest, 16, CorpusConfig(manifest="", row_tokens=16).seed, kind="pairs")
    expected = alone.rows(np.arange(alone.rows_per_epoch)).tolist()
    assert [one["rows"] for one in seen] == [expected] * 3


@pytest.mark.job
def test_an_error_in_counting_on_one_rank_is_raised_on_all(tmp_path, corpus_folder):
    corpus = shutil.copytree(corpus_folder, tmp_path / "corpus")
    table = load_manifest(corpus).blocks
    path = corpus / load_manifest(corpus).shards[table.shard[1]].name
    data = bytearray(path.read_bytes())
    data[table.offset[1] + 20] ^= 1
    path.write_bytes(data)
    message = f"{path}: block 1: the checksum does not match: the bytes have changed since they were written"
    assert count_on_three(corpus, tmp_path / "broken") == [{"error": message}] * 3


@pytest.mark.parametrize(("name", "is_new"), [("step_4.broken", True), ("step_4_aside", True), ("step_4", False)])
def test_a_student_starts_as_configured_where_no_checkpoint_is_thereskip_costly_init_from(
    tmp_path, monkeypatch, name, is_new
):
    monkeypatch.setattr(students.dist, "get_rank", lambda: 0)
    student = student_config(init={"embeddings": "teacher"})
    (tmp_path / "start" / student.name).mkdir(parents=True)
    (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert (students.skip_costly_init(student, tmp_path) == student) == is_new


@pytest.mark.parametrize(("family", "layer"), [("modernbert", 4), ("gemma3_text", 6), ("bert", None)])
def test_the_layer_whose_relations_are_learnt_is_named_where_others_have_windows(family, layer):
    teacher = teacher_model(family, num_hidden_layers=6)
    shape = EncoderShape.of(teacher.config)
    objective = [{"type": "minilm", "num_relation_heads": 4}]
    init = {"embeddings": "scratch", "layers": "scratch"}
    config = student_config(hidden_size=16, objective=objective, init=init)
    student = build_student(config, teacher, seed=0)
    notes = [f"small learns relations of the teacher's layer {layer} of 6, where every token attends to all"]
    assert list(layer_notes([student], shape)) == (notes if layer else [])
