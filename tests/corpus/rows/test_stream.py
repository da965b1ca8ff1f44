import shutil
import subprocess
import sys
import threading
from itertools import islice

import numpy as np
import pytest
import torch

from corpus.building.builder import build_corpus
from corpus.config import BuildConfig
from corpus.rows import stream as stream_module
from corpus.rows.packing import Frame, build_packed_rows
from corpus.rows.stream import RowStream
from corpus.shards import block
from corpus.shards.manifest import Manifest, corpus_fingerprint, load_manifest, save_manifest
from corpus.shards.shard import ShardWriter, read_block
from tests.processes import ROOT

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


@pytest.fixture(scope="module")
def mixed(tmp_path_factory, wordpiece, documents):
    """Three sources in many small blocks."""
    folder = tmp_path_factory.mktemp("mixed")
    sources = []
    for index, name in enumerate(("law", "news", "web")):
        (folder / f"{name}.txt").write_text("\n".join(documents[index::3]), encoding="utf-8")
        sources.append({"name": name, "format": "lines", "inputs": [str(folder / f"{name}.txt")]})
    state = {"sources": sources, "tokenizer": str(wordpiece), "output": str(folder / "corpus")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("corpus.shards.block.TARGET_BYTES", 500)
        return build_corpus(BuildConfig.model_validate(state, strict=False))[0]


def with_word_planes(manifest: Manifest, folder) -> Manifest:
    """The same corpus, with planes that say that every token of an even id continues a word."""
    folder.mkdir()
    writer, columns = ShardWriter(folder), manifest.blocks.model_dump()
    for index in range(len(manifest.blocks)):
        ids, lengths, _ = read_block(manifest, index)
        documents = np.split(ids, np.cumsum(lengths)[:-1])
        frame = block.pack(documents, [document % 2 == 0 for document in documents])
        columns["shard"][index], columns["offset"][index] = writer.write(frame)
        columns["length"][index], columns["hash"][index] = len(frame), block.checksum(frame)
    writer.close()
    blocks = type(manifest.blocks)(**columns)
    changes = {"blocks": blocks, "shards": writer.shards, "has_word_planes": True}
    fingerprint = corpus_fingerprint(manifest.tokenizer, blocks)
    save_manifest(manifest.model_copy(update=changes | {"fingerprint": fingerprint}), folder)
    return load_manifest(folder)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "row-prefetch"]


def test_an_epoch_is_every_row_of_every_block(manifest, stream):
    special = (
        manifest.tokenizer.cls_token_id,
        manifest.tokenizer.sep_token_id,
        manifest.tokenizer.pad_token_id,
    )
    expected = np.concatenate(
        [
            build_packed_rows(*read_block(manifest, index)[:2], ROW_TOKENS, Frame(*special))
            for index in range(len(manifest.blocks))
        ]
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


def test_batches_have_the_tensors_of_a_model(manifest, stream):
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


def test_a_small_cache_changes_nothing(manifest, stream, monkeypatch):
    positions = np.arange(2 * stream.rows_per_epoch)
    expected = stream.rows(positions)
    monkeypatch.setattr(stream_module, "_MAX_OPEN_BYTES", 3000)
    small = RowStream(manifest, ROW_TOKENS, seed=17)
    assert (small.rows(positions) == expected).all()
    assert small._open_blocks.num_slots < 10


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


def test_a_shard_truncated_while_training_is_named(manifest, stream):
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


@pytest.fixture(params=["weights", "pairs", "words"])
def special(request, mixed, tmp_path):
    """A stream of each kind that is not plain."""
    if request.param == "weights":
        return RowStream(mixed, ROW_TOKENS, 17, weights={"law": 0.3, "web": 2.5})
    if request.param == "pairs":
        return RowStream(mixed, ROW_TOKENS, 17, kind="pairs", documents_apart=True)
    manifest = with_word_planes(mixed, tmp_path / "words")
    return RowStream(manifest, ROW_TOKENS, 17, continues_word=True, documents_apart=True)


def test_every_kind_is_the_same_at_every_world_size_and_resume_point(special):
    whole = take(special, 40, 0, 12)
    for position, world_size in ((0, 2), (36, 3), (120, 4), (12, 12)):
        ranks = [take(special, 3, position, 12 // world_size, rank, world_size) for rank in range(world_size)]
        for step, expected in enumerate(whole[position // 12 : position // 12 + 3]):
            for name, tensor in expected.items():
                together = torch.empty_like(tensor)
                for rank in range(world_size):
                    together[rank::world_size] = ranks[rank][step][name]
                assert torch.equal(together, tensor), name


def test_weights_are_shares_of_an_epoch(mixed):
    plain = RowStream(mixed, ROW_TOKENS, 17)
    sources = np.array(mixed.blocks.source)
    rows = np.bincount(sources, plain._num_rows)
    stream = RowStream(mixed, ROW_TOKENS, 17, weights={"law": 0.5, "web": 2})
    assert stream.rows_per_epoch == round(rows[0] / 2) + rows[1] + 2 * rows[2]
    blocks, _ = stream._order.locate(np.arange(stream.rows_per_epoch))
    assert np.bincount(sources[blocks]).tolist() == [round(rows[0] / 2), rows[1], 2 * rows[2]]
    tokens = [source.tokens for source in mixed.sources]
    assert abs(stream.tokens_per_epoch - (tokens[0] / 2 + tokens[1] + 2 * tokens[2])) <= ROW_TOKENS
    halves = [stream.rows(np.arange(stream.rows_per_epoch) + epoch * stream.rows_per_epoch) for epoch in (0, 1)]
    every = {tuple(row) for row in plain.rows(np.arange(plain.rows_per_epoch)).tolist()}
    seen = {tuple(row) for half in halves for row in half.tolist()}
    assert seen <= every and len(every - seen) <= 1, "an odd row waits for the third epoch"


def test_unknown_sources_are_refused(mixed):
    with pytest.raises(ValueError, match="no source is named laws; the sources are law, news, web"):
        RowStream(mixed, ROW_TOKENS, 17, weights={"laws": 0.2})


def test_documents_of_a_row_are_numbered_and_their_tokens_counted(manifest):
    """Walked token by token: a document begins at each CLS, and padding is no document's."""
    stream = RowStream(manifest, ROW_TOKENS, seed=17, documents_apart=True)
    tokenizer = manifest.tokenizer
    batch = take(stream, 1, 0, 200)[0]
    seen = set()
    for ids, documents, places in zip(
        *(batch[name].tolist() for name in ("input_ids", "document_ids", "position_ids")), strict=True
    ):
        current, place = -1, 0
        for token, document, found in zip(ids, documents, places, strict=True):
            current, place = (current + 1, 0) if token == tokenizer.cls_token_id else (current, place + 1)
            expected = (-1, 0) if token == tokenizer.pad_token_id else (current, place)
            assert (document, found) == expected
        seen |= {current + 1}
    assert {1, 2} <= seen
    text = np.isin(stream.rows(np.arange(stream.rows_per_epoch)), special_ids(tokenizer), invert=True)
    assert text.sum() == manifest.totals.tokens


def special_ids(tokenizer):
    return [tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id]


def test_pairs_have_token_types(mixed):
    stream = RowStream(mixed, ROW_TOKENS, seed=17, kind="pairs", documents_apart=True)
    tokenizer = mixed.tokenizer
    batches = take(stream, -(-stream.rows_per_epoch // 8), 0, 8)
    lengths = set()
    for batch in batches:
        for row in range(8):
            ids, types, mask = (batch[name][row].tolist() for name in ("input_ids", "token_type_ids", "attention_mask"))
            real = ids[: sum(mask)]
            first = real.index(tokenizer.sep_token_id) + 1
            expected = [0] * first + [1] * (len(real) - first)
            assert types == expected + [0] * (ROW_TOKENS - len(real)) and mask == sorted(mask, reverse=True)
            assert batch["document_ids"][row].tolist() == [real - 1 for real in mask]
            assert batch["position_ids"][row].tolist() == [place * real for place, real in enumerate(mask)]
            lengths.add(len(real))
    assert ROW_TOKENS in lengths and len(lengths) > 3
    special = [tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id]
    epoch = stream.rows(np.arange(stream.rows_per_epoch))
    assert np.isin(epoch, special, invert=True).sum() == mixed.totals.tokens


def test_word_planes_are_aligned_with_tokens(mixed, tmp_path):
    manifest = with_word_planes(mixed, tmp_path / "words")
    stream = RowStream(manifest, ROW_TOKENS, seed=17, continues_word=True)
    special = [manifest.tokenizer.cls_token_id, manifest.tokenizer.sep_token_id, manifest.tokenizer.pad_token_id]
    for batch in take(stream, 30, 0, 8):
        ids = batch["input_ids"]
        is_text = ~torch.isin(ids, torch.tensor(special))
        assert batch["continues_word"].dtype == torch.int64
        assert torch.equal(batch["continues_word"], ((ids % 2 == 0) & is_text).long())
    assert set(take(RowStream(manifest, ROW_TOKENS, 17), 1, 0, 8)[0]) == {
        "input_ids",
        "attention_mask",
        "token_type_ids",
    }


def test_missing_word_planes_are_refused(mixed):
    with pytest.raises(ValueError, match="the corpus was built without word planes"):
        RowStream(mixed, ROW_TOKENS, seed=17, continues_word=True)


def test_unknown_kinds_are_refused(manifest):
    with pytest.raises(ValueError, match="there are no rows of kind 'single'; there are packed, pairs"):
        RowStream(manifest, ROW_TOKENS, seed=17, kind="single")


def test_short_rows_are_refused(manifest):
    with pytest.raises(ValueError, match="row_tokens is 7, but must be at least 8"):
        RowStream(manifest, 7, seed=17)


def test_the_thread_of_batches_left_open_ends_before_the_interpreter(corpus_folder):
    """The handler that is registered first runs last."""
    script = f"""
import atexit, threading
atexit.register(lambda: print([thread.name for thread in threading.enumerate()]))
from corpus.rows.stream import RowStream
from corpus.shards.manifest import load_manifest
batches = RowStream(load_manifest({str(corpus_folder)!r}), 16, seed=17).batches(0, 4)
next(batches)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0 and "row-prefetch" not in done.stdout and "MainThread" in done.stdout, done.stderr
