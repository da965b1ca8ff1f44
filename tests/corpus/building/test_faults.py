"""Damaged blocks by policy: stop, or skip without moving any other row. A failing store always stops."""

import re
import shutil
import warnings
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from corpus import remote
from corpus.rows.masking import MaskingSettings
from corpus.rows.stream import RowStream
from corpus.shards import store
from corpus.shards.manifest import Manifest, load_manifest
from corpus.shards.store import StoreLost
from tests.corpus.servers import range_server

ROW_TOKENS = 16
DAMAGED = (2, 5)
KINDS = {
    "plain": {},
    "weighted": {"weights": {"tiny": 1.5}},
    "masked within documents": {"masking": MaskingSettings(), "documents_apart": True},
    "pairs": {"kind": "pairs"},
}


@pytest.fixture
def folder(corpus_folder, tmp_path) -> Path:
    """A copy to damage."""
    return shutil.copytree(corpus_folder, tmp_path / "copy")


def flip(folder: Path, manifest: Manifest, block: int) -> None:
    table = manifest.blocks
    path = folder / manifest.shards[table.shard[block]].name
    data = bytearray(path.read_bytes())
    data[table.offset[block] + table.length[block] // 2] ^= 1
    path.write_bytes(data)


def take(stream: RowStream, count: int, position: int, rank: int, world_size: int) -> dict[str, torch.Tensor]:
    """All batches of 4 rows of a rank, put together."""
    batches = list(islice(stream.batches(position, 4, rank, world_size), count))
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_skipped_rows_are_empty_and_all_others_unchanged(folder, corpus_folder, kind, world_size):
    manifest, sound = load_manifest(folder), RowStream(load_manifest(corpus_folder), ROW_TOKENS, 17, **KINDS[kind])
    stream = RowStream(manifest, ROW_TOKENS, 17, on_fault="skip", **KINDS[kind])
    for block in DAMAGED:
        flip(folder, manifest, block)
    count = stream.rows_per_epoch // (4 * world_size) + 1
    cls, sep, pad = (getattr(manifest.tokenizer, f"{name}_token_id") for name in ("cls", "sep", "pad"))
    for rank in range(world_size):
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            ours = take(stream, count, 7, rank, world_size)
        theirs = take(sound, count, 7, rank, world_size)
        positions = 7 + rank + world_size * np.arange(4 * count)
        skipped = torch.from_numpy(np.isin(stream._order.locate(positions)[0], DAMAGED))
        assert skipped.any() and not skipped.all()
        for name, tensor in theirs.items():
            assert torch.equal(ours[name][~skipped], tensor[~skipped]), name
        assert torch.equal(ours["attention_mask"].sum(1) <= 2, skipped), "which is how they are counted"
        assert ours["input_ids"][skipped].unique(dim=0).tolist() == [[cls, sep] + [pad] * (ROW_TOKENS - 2)]
        assert not ours["token_type_ids"][skipped].any()
        assert "labels" not in ours or (ours["labels"][skipped] == -100).all()
        told = [str(one.message) for one in warned]
        assert len(told) == len(set(told)) <= len(DAMAGED)
        assert all(re.search(r"shard-\d+\.bin: block [25]: the checksum .*; its rows are skipped", one) for one in told)


def test_whatever_bit_is_flipped_rows_are_right_or_empty(folder, corpus_folder):
    """One more flip at a time, anywhere in the shards; never a row of other text."""
    manifest, random = load_manifest(folder), np.random.default_rng(5)
    sound = RowStream(load_manifest(corpus_folder), ROW_TOKENS, 17)
    positions = np.arange(sound.rows_per_epoch)
    expected, blocks = sound.rows(positions), sound._order.locate(positions)[0]
    table, flipped = manifest.blocks, {}
    for _ in range(30):
        shard = int(random.integers(len(manifest.shards)))
        path = folder / manifest.shards[shard].name
        data = bytearray(path.read_bytes())
        place, bit = int(random.integers(len(data))), int(random.integers(8))
        data[place] ^= 1 << bit
        path.write_bytes(data)
        ends = np.where(np.array(table.shard) == shard, np.array(table.offset) + np.array(table.length), 0)
        inside = np.flatnonzero((ends > place) & (np.array(table.offset) <= place))
        flipped[shard, place, bit] = set(inside.tolist())
        lost = np.isin(blocks, list(set().union(*flipped.values())))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rows = RowStream(manifest, ROW_TOKENS, 17, on_fault="skip").rows(positions)
        assert (rows[~lost] == expected[~lost]).all()
        assert ((rows[lost] != manifest.tokenizer.pad_token_id).sum(1) == 2).all()
    assert lost.any() and not lost.all()


def test_word_planes_of_skipped_rows_are_empty(folder, tmp_path):
    from tests.corpus.rows.test_stream import with_word_planes

    manifest = with_word_planes(load_manifest(folder), tmp_path / "words")
    flip(tmp_path / "words", manifest, 2)
    stream = RowStream(manifest, ROW_TOKENS, 17, continues_word=True, on_fault="skip")
    with pytest.warns(UserWarning, match="block 2: the checksum"):
        batch = take(stream, stream.rows_per_epoch // 4, 0, 0, 1)
    skipped = batch["attention_mask"].sum(1) <= 2
    assert skipped.any() and not batch["continues_word"][skipped].any()


def test_no_intact_row_is_as_short_as_an_empty_one(corpus_folder):
    for kind in KINDS.values():
        stream = RowStream(load_manifest(corpus_folder), 8, 17, **kind)
        mask = take(stream, stream.rows_per_epoch // 4 + 1, 0, 0, 1)["attention_mask"]
        assert mask.sum(1).min() >= 3


@pytest.mark.parametrize("fault", ["missing", "cut"])
def test_a_missing_or_truncated_shard_is_refused_or_skipped(folder, fault):
    name = load_manifest(folder).shards[1].name
    data = (folder / name).read_bytes()
    (folder / name).unlink()
    if fault == "cut":
        (folder / name).write_bytes(data[: len(data) // 2])
    message = {"missing": f"{name}: the shard is missing", "cut": rf"{name}: the shard has \d+ bytes, but the man"}[
        fault
    ]
    with pytest.raises(ValueError, match=message):
        load_manifest(folder)
    with pytest.warns(UserWarning, match=f"{message}.*; its damaged blocks are skipped"):
        manifest = load_manifest(folder, on_fault="skip")
    stream = RowStream(manifest, ROW_TOKENS, 17, on_fault="skip")
    positions = np.arange(stream.rows_per_epoch)
    with pytest.warns(UserWarning, match=rf"{name}: block \d+: the shard .*; its rows are skipped"):
        rows = stream.rows(positions)
    table, blocks = manifest.blocks, stream._order.locate(positions)[0]
    lost = np.array(table.shard)[blocks] == 1
    if fault == "cut":
        ends = np.array(table.offset) + np.array(table.length)
        lost &= ends[blocks] > len(data) // 2
    is_empty = (rows != manifest.tokenizer.pad_token_id).sum(1) == 2
    assert lost.any() and (is_empty == lost).all()


def test_a_vanished_corpus_is_never_skipped(folder):
    manifest = load_manifest(folder)
    stream = RowStream(manifest, ROW_TOKENS, 17, on_fault="skip")
    for shard in manifest.shards:
        (folder / shard.name).unlink()
    with pytest.raises(ValueError, match=r"shard-00000\.bin: the shard is missing"):
        load_manifest(folder, on_fault="skip")
    (folder / "manifest.json").unlink()  # the disk was unmounted
    with pytest.raises(StoreLost, match=r"shard-\d+\.bin: block \d+: the shard is missing"):
        stream.rows(np.arange(8))


def test_an_unreadable_store_stops_even_with_skip(folder, monkeypatch):
    stream = RowStream(load_manifest(folder), ROW_TOKENS, 17, on_fault="skip")

    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(store.LocalStore, "read_block", fail)
    with pytest.raises(StoreLost, match=r"shard-\d+\.bin: block \d+: .*Input/output error"):
        take(stream, 1, 0, 0, 1)


def test_pairs_are_not_counted_in_a_damaged_block(folder):
    manifest = load_manifest(folder)
    flip(folder, manifest, 2)
    with pytest.raises(ValueError, match="block 2: the checksum does not match"):
        RowStream(manifest, ROW_TOKENS, 17, kind="pairs", on_fault="skip")


@pytest.fixture
def server(folder, monkeypatch):
    monkeypatch.setattr(remote, "_WAITS_SECONDS", (0.01, 0.01))
    monkeypatch.setattr(remote, "_TIMEOUT_SECONDS", 1.0)
    with range_server(folder) as server:
        yield server


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("flip", "gave up after 3 attempts; the last: the checksum"),
        ("short", "gave up after 3 attempts; the last: .* bytes came"),
        ("lost", "the shard is missing"),
    ],
)
def test_damage_behind_a_url_is_skipped(server, fault, message):
    stream = RowStream(load_manifest(server.url), ROW_TOKENS, 17, on_fault="skip")
    expected = stream.rows(np.arange(200))
    stream = RowStream(load_manifest(server.url), ROW_TOKENS, 17, on_fault="skip")
    if fault == "lost":
        (server.folder / "shard-00001.bin").unlink()
    else:
        server.fault = lambda path, number: fault if path == "/shard-00001.bin" else None
    with pytest.warns(UserWarning, match=rf"http://.*/shard-00001\.bin: block \d+: {message}.*; its rows are skipped"):
        rows = stream.rows(np.arange(200))
    is_empty = (rows != stream._manifest.tokenizer.pad_token_id).sum(1) == 2
    assert 0 < is_empty.sum() < 200 and (rows[~is_empty] == expected[~is_empty]).all()


@pytest.mark.parametrize(("fault", "message"), [("503", "the last: 503"), ("hang up", "the last: Server disconnected")])
def test_an_unreachable_store_stops_with_any_policy(server, fault, message):
    stream = RowStream(load_manifest(server.url), ROW_TOKENS, 17, on_fault="skip")
    server.fault = lambda path, number: fault
    with pytest.raises(StoreLost, match=rf"block \d+: gave up after 3 attempts; {message}"):
        take(stream, 1, 0, 0, 1)
