import shutil
import threading
from itertools import islice

import numpy as np
import pytest
import torch

from corpus import stream as stream_module
from corpus.block import build_rows
from corpus.manifest import load_manifest
from corpus.shard import read_block
from corpus.stream import RowStream

ROW_TOKENS = 16


@pytest.fixture
def manifest(corpus_folder, tmp_path):
    """A copy to damage."""
    return load_manifest(shutil.copytree(corpus_folder, tmp_path / "copy"))


@pytest.fixture
def stream(manifest):
    return RowStream(manifest, ROW_TOKENS, seed=17)


def take(stream: RowStream, count: int, *arguments: int) -> list[dict[str, torch.Tensor]]:
    return list(islice(stream.batches(*arguments), count))


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "row-prefetch"]


def test_an_epoch_is_every_row_of_every_block(manifest, stream):
    special = (
        manifest.tokenizer.cls_token_id,
        manifest.tokenizer.sep_token_id,
        manifest.tokenizer.pad_token_id,
    )
    expected = np.concatenate(
        [build_rows(*read_block(manifest, index), ROW_TOKENS, *special) for index in range(len(manifest.blocks))]
    )
    assert len(expected) == stream.rows_per_epoch
    for epoch in (0, 1):
        rows = stream.rows(np.arange(stream.rows_per_epoch) + epoch * stream.rows_per_epoch)
        assert sorted(rows.tolist()) == sorted(expected.tolist())
        assert rows.tolist() != expected.tolist()
    assert np.isin(expected, special, invert=True).sum() == stream.tokens_per_epoch == manifest.totals.tokens


def test_batches_follow_the_positions_across_epochs(stream):
    start = stream.rows_per_epoch - 10
    batches = take(stream, 5, start, 7)
    ids = torch.cat([batch["input_ids"] for batch in batches]).numpy()
    assert (ids == stream.rows(np.arange(start, start + 35))).all()


def test_batches_are_what_a_model_takes(manifest, stream):
    batches = take(stream, 60, 0, 8)
    for batch in batches:
        assert set(batch) == {"input_ids", "attention_mask", "token_type_ids"}
        assert all(tensor.dtype == torch.int64 and tensor.shape == (8, ROW_TOKENS) for tensor in batch.values())
        assert not batch["token_type_ids"].any()
        is_padding = batch["input_ids"] == manifest.tokenizer.pad_token_id
        assert torch.equal(batch["attention_mask"], (~is_padding).long())
    masks = torch.cat([batch["attention_mask"] for batch in batches])
    assert 0 < masks.sum() < masks.numel()
    assert (masks.diff(dim=1) <= 0).all(), "padding is at the end"


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_ranks_together_see_the_global_sequence(stream, world_size):
    ranks = [take(stream, 3, 5, 12 // world_size, rank, world_size) for rank in range(world_size)]
    for step in range(3):
        together = np.empty((12, ROW_TOKENS), dtype=np.int64)
        for rank in range(world_size):
            together[rank::world_size] = ranks[rank][step]["input_ids"].numpy()
        assert (together == stream.rows(np.arange(5 + 12 * step, 17 + 12 * step))).all()


def test_resuming_continues_the_same_sequence(stream):
    whole = take(stream, 6, 0, 10)
    resumed = take(stream, 3, 30, 10)
    assert all(torch.equal(a["input_ids"], b["input_ids"]) for a, b in zip(whole[3:], resumed, strict=True))


def test_batches_larger_than_a_read(stream, monkeypatch):
    expected = stream.rows(np.arange(90))
    monkeypatch.setattr(stream_module, "_ROWS_PER_READ", 7)
    ids = torch.cat([batch["input_ids"] for batch in take(stream, 3, 0, 30)])
    assert (ids.numpy() == expected).all()


def test_a_small_cache_changes_nothing_but_stays_small(manifest, stream):
    positions = np.arange(2 * stream.rows_per_epoch)
    expected = stream.rows(positions)
    small = RowStream(manifest, ROW_TOKENS, seed=17)
    small._max_cached_bytes = 3000
    assert (small.rows(positions) == expected).all()
    assert sum(rows.nbytes for rows in small._blocks.values()) == small._cached_bytes <= 3000


def test_closing_ends_the_thread(stream):
    before = len(threads())
    batches = stream.batches(0, 4)
    next(batches)
    assert len(threads()) == before + 1
    batches.close()
    assert len(threads()) == before
    stream.batches(0, 4).close()  # never begun
    assert len(threads()) == before


@pytest.mark.parametrize("where", [0, 1, -1])
def test_a_fault_reaches_the_consumer_with_its_message(manifest, where):
    """At the first and the last byte of a frame, and in its middle."""
    block = 5
    path = manifest.folder / manifest.shards[manifest.blocks.shard[block]].name
    start, length = manifest.blocks.offset[block], manifest.blocks.length[block]
    data = bytearray(path.read_bytes())
    data[{0: start, 1: start + length // 2, -1: start + length - 1}[where]] ^= 16
    path.write_bytes(data)
    stream = RowStream(manifest, ROW_TOKENS, seed=17)
    with pytest.raises(ValueError, match=rf"{path.name}: block 5: the checksum does not match"):
        take(stream, stream.rows_per_epoch, 0, 4)
    assert not threads()


def test_a_shard_lost_while_training_is_named(manifest, stream):
    path = manifest.folder / manifest.shards[1].name
    path.unlink()
    with pytest.raises(ValueError, match=rf"{path.name}: block \d+: the shard is missing"):
        take(stream, stream.rows_per_epoch, 0, 4)


def test_a_shard_cut_while_training_is_named(manifest, stream):
    path = manifest.folder / manifest.shards[1].name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=rf"{path.name}: block \d+: the shard ends before the block does"):
        take(stream, stream.rows_per_epoch, 0, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 4), r"position \(-1\) must be at least 0"),
        ((0, 0), r"rows_per_batch \(0\) at least 1"),
        ((0, 4, 2, 2), "rank is 2, but must lie in 0 to 1"),
    ],
)
def test_impossible_batches_are_refused_at_once(stream, arguments, message):
    with pytest.raises(ValueError, match=message):
        stream.batches(*arguments)


def test_short_rows_are_refused(manifest):
    with pytest.raises(ValueError, match="row_tokens is 7, but must be at least 8"):
        RowStream(manifest, 7, seed=17)
