"""The order of data over random corpora: sources that are empty or a single block, weights of any size, lanes, windows,
row lengths, ranks and places to stop at. Only sizes are drawn; the invariants are the same for all.
"""

from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from corpus.rows.order import Order
from corpus.rows.stream import RowStream
from corpus.shards import block
from corpus.shards.manifest import BlockTable, Manifest, ShardRecord, SourceRecord, TokenizerRecord, total_counts

WEIGHTS = st.sampled_from([0.0, 1e-9, 0.01, 0.3, 1.0, 1.0, 1.7, 2.0, 3.0])
SOURCES = st.lists(st.tuples(st.lists(st.integers(1, 20), max_size=12), WEIGHTS), min_size=1, max_size=5)
LANES = st.one_of(st.integers(1, 20), st.just(256))
RANKS = st.integers(1, 9)
Row = tuple[int, int]


@st.composite
def mixtures(draw) -> tuple[list[tuple[list[int], float]], dict]:
    """Sources, each its blocks' rows and its weight, and the arguments of their order; some row is shown."""
    sources = draw(SOURCES)
    assume(any(weight and blocks for blocks, weight in sources))
    arguments = {
        "rows_per_block": [rows for blocks, _ in sources for rows in blocks],
        "source_of_block": [index for index, (blocks, _) in enumerate(sources) for _ in blocks],
        "weights": [weight for _, weight in sources],
        "seed": draw(st.integers(0, 2**63 - 1)),
        "num_lanes": draw(LANES),
        "window_blocks": draw(st.integers(1, 6)),
    }
    return sources, arguments


def sequence(order: Order, positions: np.ndarray) -> list[Row]:
    blocks, rows = order.locate(positions)
    return list(zip(blocks.tolist(), rows.tolist(), strict=True))


@given(mixtures(), st.integers(0, 4))
def test_epochs_show_every_row_of_a_source_as_often(mixture, epoch):
    sources, arguments = mixture
    order = Order(**arguments)
    count = order.rows_per_epoch
    came = Counter(sequence(order, np.arange((epoch + 1) * count)))
    last = Counter(sequence(order, np.arange(epoch * count, (epoch + 1) * count)))
    first = 0
    for (blocks, weight), shown in zip(sources, order.rows_per_source, strict=True):
        rows = [(first + index, row) for index, size in enumerate(blocks) for row in range(size)]
        first += len(blocks)
        for counts, num_shown in ((came, (epoch + 1) * shown), (last, shown)):
            times = [counts.pop(row, 0) for row in rows]
            assert sum(times) == num_shown
            assert not rows or max(times) - min(times) <= (1 if counts is came else 2)  # parts of two passes
        assert (shown > 0) == bool(weight and rows)
        if weight == int(weight):
            assert shown == weight * len(rows)
    assert not came and not last, "rows of no source"


@given(mixtures(), st.integers(0, 4000), RANKS, st.integers(1, 7), RANKS, st.integers(1, 7))
def test_changing_the_number_of_ranks_keeps_the_sequence(mixture, start, ranks, rows, later_ranks, later_rows):
    """Slices of each batch are the batch of one rank, whatever ranks there are, before and after a change of them."""
    _, arguments = mixture
    num_batches, together = 3, []
    for num_ranks, rows_per_batch in ((ranks, rows), (later_ranks, later_rows)):
        order, place = Order(**arguments), start + len(together)
        for batch in range(num_batches):
            first = place + batch * rows_per_batch * num_ranks
            slices = [
                sequence(order, first + rank + num_ranks * np.arange(rows_per_batch)) for rank in range(num_ranks)
            ]
            together += [row for turn in zip(*slices, strict=True) for row in turn]
    assert together == sequence(Order(**arguments), np.arange(start, start + len(together)))


@given(mixtures(), RANKS)
def test_ranks_of_an_epoch_share_no_row(mixture, num_ranks):
    sources, arguments = mixture
    arguments["weights"] = [1.0] * len(sources)
    order = Order(**arguments)
    ranks = [sequence(order, np.arange(rank, order.rows_per_epoch, num_ranks)) for rank in range(num_ranks)]
    every = {row for rows in ranks for row in rows}
    assert len(every) == sum(map(len, ranks)) == sum(arguments["rows_per_block"])


@given(mixtures(), st.integers(0, 300), st.integers(0, 300))
def test_resuming_anywhere_continues_the_same_sequence(mixture, stop, count):
    _, arguments = mixture
    whole = sequence(Order(**arguments), np.arange(stop + count))
    assert whole[stop:] == sequence(Order(**arguments), np.arange(stop, stop + count))


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.integers(1, 3))
def test_a_mixture_without_rows_is_refused(table, num_sources):
    sources = [index % num_sources for index in range(len(table))]
    with pytest.raises(ValueError, match="every source has the weight 0, so no row is left"):
        Order(table, 1, source_of_block=sources, weights=[0.0] * num_sources)


@dataclass
class MemoryStore:
    """Blocks by their offset."""

    frames: list[bytes]
    location: str = "memory"
    num_readers: int = 1

    def read_block(self, name: str, offset: int, num_bytes: int, digest: str) -> bytes:
        return self.frames[offset]


@st.composite
def corpora(draw) -> Manifest:
    """A manifest of random blocks of random documents; every token of it has an id of its own."""
    sources = draw(st.lists(st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=6), max_size=5), max_size=4))
    assume(any(sources))
    ids = iter(range(5, 60_000))
    columns: dict[str, list] = {name: [] for name in BlockTable.model_fields}
    frames = []
    for source, blocks in enumerate(sources):
        for lengths in blocks:
            frame = block.pack([np.array(list(islice(ids, length)), dtype=np.uint16) for length in lengths])
            row = (source, 0, len(frames), len(frame), sum(lengths), len(lengths), block.checksum(frame))
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
            frames.append(frame)
    names = ("pad", "cls", "sep", "mask", "unk")
    special = {f"{name}_token_id": index for index, name in enumerate(names)}
    counts = {"documents_in": 0, "documents": 0, "characters": 0, "tokens": 0, "unk_tokens": 0, "rejected": {}}
    records = [
        SourceRecord(name=f"s{index}", format="lines", inputs=[], examples={}, **counts)
        for index in range(len(sources))
    ]
    manifest = Manifest(
        format_version=1,
        fingerprint="none",
        tokenizer=TokenizerRecord(name="none", fingerprint="none", vocab_size=60_000, dtype="uint16", **special),
        sources=records,
        totals=total_counts(records),
        shards=[ShardRecord(name="only", num_bytes=0)],
        blocks=BlockTable(**columns),
    )
    manifest._store = MemoryStore(frames)
    return manifest


@settings(max_examples=40)
@given(corpora(), st.integers(8, 60), st.integers(0, 99))
def test_every_token_of_an_epoch_occurs_once_at_any_row_length(manifest, row_tokens, seed):
    stream = RowStream(manifest, row_tokens, seed)
    for epoch in range(2):
        rows = stream.rows(np.arange(stream.rows_per_epoch) + epoch * stream.rows_per_epoch)
        text = rows[rows >= 5]
        assert sorted(text.tolist()) == list(range(5, 5 + sum(manifest.blocks.tokens)))


@settings(max_examples=40)
@given(corpora(), st.integers(8, 60), RANKS, RANKS, st.integers(1, 5), st.integers(0, 500))
def test_streams_of_ranks_are_slices_of_one(manifest, row_tokens, ranks, later_ranks, rows_per_batch, start):
    reference, num_batches = RowStream(manifest, row_tokens, 3), 3
    for num_ranks in (ranks, later_ranks):
        count = num_batches * rows_per_batch * num_ranks
        together = np.empty((count, row_tokens), dtype=np.int64)
        for rank in range(num_ranks):
            with closing(RowStream(manifest, row_tokens, 3).batches(start, rows_per_batch, rank, num_ranks)) as batches:
                rows = [batch["input_ids"].numpy() for batch in islice(batches, num_batches)]
            together[rank::num_ranks] = np.concatenate(rows)
        assert np.array_equal(together, reference.rows(np.arange(start, start + count)))
        start += count
