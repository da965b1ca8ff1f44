"""The main job on a corpus with damaged blocks, on two ranks."""

import shutil
import warnings

import numpy as np
import pytest

from corpus.rows.stream import RowStream
from corpus.shards.manifest import load_manifest
from pretrain.training.metrics import read_metrics
from tests.launch.conftest import launch


@pytest.mark.job
def test_skipped_rows_are_named_and_counted(config_file, tmp_path, corpus_folder):
    broken = shutil.copytree(corpus_folder, tmp_path / "corpus")
    manifest = load_manifest(broken)
    table = manifest.blocks
    for block in range(0, len(table), 3):
        path = broken / manifest.shards[table.shard[block]].name
        data = bytearray(path.read_bytes())
        data[table.offset[block] + 20] ^= 1
        path.write_bytes(data)
    overrides = [f"corpus.manifest={broken}", "corpus.on_fault=skip"]
    done = launch("--config", str(config_file), "--run", str(tmp_path / "run"), "--set", *overrides, num_ranks=2)
    assert done.returncode == 0, done.stderr
    assert "shard-00000.bin: block 0: the checksum does not match" in done.stderr
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = RowStream(manifest, 16, seed=17, on_fault="skip").rows(np.arange(6 * 8))
    is_empty = (rows != manifest.tokenizer.pad_token_id).sum(1) == 2
    expected = is_empty.reshape(3, -1).sum(1)
    assert 0 < expected.sum() < 48
    assert [line["skipped_rows"] for line in read_metrics(tmp_path / "run")] == expected.tolist()
