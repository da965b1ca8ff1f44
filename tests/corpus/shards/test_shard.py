import shutil

import numpy as np
import pytest

from corpus.shards import shard
from corpus.shards.manifest import load_manifest
from corpus.shards.shard import ShardWriter, read_block, verify


@pytest.fixture
def manifest(corpus_folder, tmp_path):
    """A copy to damage."""
    return load_manifest(shutil.copytree(corpus_folder, tmp_path / "copy"))


def test_writer_starts_a_shard_when_one_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr(shard, "MAX_SHARD_BYTES", 10)
    writer = ShardWriter(tmp_path)
    places = [writer.write(b"x" * size) for size in (4, 6, 1, 30, 2)]
    writer.close()
    assert places == [(0, 0), (0, 4), (1, 0), (2, 0), (3, 0)]
    assert [(record.name, record.num_bytes) for record in writer.shards] == [
        (f"shard-0000{index}.bin", size) for index, size in enumerate((10, 1, 30, 2))
    ]
    assert all((tmp_path / record.name).stat().st_size == record.num_bytes for record in writer.shards)


def test_blocks_read_back_in_any_order(manifest):
    assert len(manifest.shards) > 2 and len(manifest.blocks) > 10
    tokens = {index: read_block(manifest, index) for index in reversed(range(len(manifest.blocks)))}
    for index, (ids, lengths, _) in tokens.items():
        assert (len(ids), len(lengths)) == (manifest.blocks.tokens[index], manifest.blocks.documents[index])
        assert ids.dtype == np.uint16 and lengths.sum() == len(ids)
    assert verify(manifest) == []


def test_every_flipped_bit_of_a_block_is_found(manifest):
    block = 3
    path = manifest.folder / manifest.shards[manifest.blocks.shard[block]].name
    start, length = manifest.blocks.offset[block], manifest.blocks.length[block]
    whole = path.read_bytes()
    for position in range(start, start + length):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"{path.name}: block 3: the checksum does not match"):
            read_block(manifest, block)
        if position == start + 9:
            (fault,) = verify(manifest)
            assert path.name in fault and "block 3:" in fault


def test_short_and_missing_shards_are_named(manifest):
    last = len(manifest.blocks) - 1
    path = manifest.folder / manifest.shards[-1].name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=rf"{path.name}: block {last}: the shard ends before the block does"):
        read_block(manifest, last)
    path.unlink()
    with pytest.raises(ValueError, match=rf"{path.name}: block {last}: the shard is missing"):
        read_block(manifest, last)


def test_ids_outside_the_vocabulary_are_a_fault(manifest):
    small = manifest.tokenizer.model_copy(update={"vocab_size": 6})
    faults = verify(manifest.model_copy(update={"tokenizer": small}))
    assert len(faults) == len(manifest.blocks) and "an id is outside the vocabulary" in faults[0]
