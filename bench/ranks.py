"""Thousands of ranks over a corpus of a real size, in one process: who reads what, from when on, and how much of it.

    python bench/ranks.py --ranks 8 64 1024 4096 [--blocks 1000000] [--row-tokens 512]

The manifest is synthetic, 26 sources with weights and about 131,000 tokens a block, so a million blocks are 260 GB of
ids; its shards are empty files of the right sizes, and what a block holds is made when it is read. Everything else is
the code that a run uses. For each number of ranks, every rank walks its whole epoch: the rows that all of them show
are compared with what an epoch is to show, and the bytes of the blocks that each opens with its even share. Then a
rank is started in mid-epoch in a process of its own, and a sequence goes on through changes of the number of ranks.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

# In the place of bench/, where corpus.py would hide the package of its name
sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from tqdm import tqdm

from corpus.rows.mixture import Mixture, source_weights
from corpus.rows.order import NUM_LANES, Order
from corpus.rows.packing import num_packed_rows
from corpus.rows.stream import RowStream
from corpus.shards import block
from corpus.shards.manifest import (
    BlockTable,
    Manifest,
    ShardRecord,
    SourceRecord,
    TokenizerRecord,
    corpus_fingerprint,
    load_manifest,
    save_manifest,
    total_counts,
)

SEED = 17
BLOCKS_PER_SHARD = 480
NUM_SOURCES = 26
# Of the others 1; none above, so that a rank's blocks are read once an epoch and can be counted without reading.
WEIGHTS = {"source-1": 0.5, "source-2": 0.0, "source-3": 0.001}
ROWS_PER_BATCH = 32
NUM_BATCHES = 4
Table = dict[str, list]


def build_corpus(folder: Path, num_blocks: int) -> None:
    """A manifest of blocks of 256 KiB, sorted by source, and sparse shards of the sizes it tells."""
    random = np.random.default_rng(SEED)
    source = np.sort(random.integers(0, NUM_SOURCES, num_blocks))
    source[:NUM_SOURCES] = np.minimum(source[:NUM_SOURCES], np.arange(min(num_blocks, NUM_SOURCES)))
    length = random.integers(115_000, 145_000, num_blocks)
    shard = np.arange(num_blocks) // BLOCKS_PER_SHARD
    before = np.cumsum(length) - length
    columns = {
        "source": source,
        "shard": shard,
        "offset": before - before[shard * BLOCKS_PER_SHARD],
        "length": length,
        "tokens": random.integers(131_072, 132_072, num_blocks),
        "documents": random.integers(20, 400, num_blocks),
    }
    blocks = BlockTable(
        **{name: values.tolist() for name, values in columns.items()},
        hash=[f"{index:016x}" for index in range(num_blocks)],
    )
    sizes = np.bincount(shard, length).astype(np.int64).tolist()
    shards = [ShardRecord(name=f"shard-{index:05d}.bin", num_bytes=size) for index, size in enumerate(sizes)]
    for record in shards:
        with (folder / record.name).open("wb") as file:
            file.truncate(record.num_bytes)
    save_manifest(_manifest(blocks, shards), folder)


def _manifest(blocks: BlockTable, shards: list[ShardRecord]) -> Manifest:
    ids = {f"{name}_token_id": index for index, name in enumerate(("pad", "unk", "cls", "sep", "mask"))}
    tokenizer = TokenizerRecord(name="none", fingerprint="none", vocab_size=21128, dtype="uint16", **ids)
    sums = (np.bincount(blocks.source, column, NUM_SOURCES) for column in (blocks.documents, blocks.tokens))
    sources = [
        SourceRecord(
            name=f"source-{index}", format="lines", inputs=[], examples={}, rejected={}, unk_tokens=0,
            documents_in=documents, documents=documents, characters=tokens, tokens=tokens,
        )
        for index, (documents, tokens) in enumerate(zip(*(column.astype(int).tolist() for column in sums), strict=True))
    ]  # fmt: skip
    fingerprint = corpus_fingerprint(tokenizer, blocks)
    return Manifest(
        format_version=1, fingerprint=fingerprint, tokenizer=tokenizer, sources=sources, totals=total_counts(sources),
        shards=shards, blocks=blocks,
    )  # fmt: skip


@dataclass
class SyntheticStore:
    """Blocks made when they are read, each of its own ids; its hash in the manifest is its index."""

    table: BlockTable
    location: str = "synthetic"
    num_readers: int = 1
    num_bytes: int = 0
    _ids: np.ndarray = field(
        default_factory=lambda: np.random.default_rng(SEED).integers(5, 21128, 1 << 18).astype(np.uint16)
    )

    def size(self, name: str) -> int | None:
        raise AssertionError("sizes are checked before this store is put in place")

    def read_file(self, name: str) -> bytes:
        raise AssertionError("so is the manifest")

    def read_block(self, name: str, offset: int, num_bytes: int, digest: str) -> bytes:
        index = int(digest, 16)
        start = 7919 * index % (1 << 16)
        ids = self._ids[start : start + self.table.tokens[index]]
        self.num_bytes += num_bytes
        return block.pack(np.array_split(ids, self.table.documents[index]))


def read_manifest(folder: Path) -> tuple[Manifest, SyntheticStore]:
    manifest = load_manifest(folder)
    store = SyntheticStore(manifest.blocks)
    manifest._store = store
    return manifest, store


class Epoch:
    """The first epoch of a manifest, walked by the ranks of any number of them."""

    def __init__(self, manifest: Manifest, row_tokens: int, num_lanes: int = NUM_LANES) -> None:
        table = manifest.blocks
        rows = num_packed_rows(np.array(table.tokens), np.array(table.documents), row_tokens)
        weights = source_weights([source.name for source in manifest.sources], WEIGHTS)
        self.order = Order(rows, SEED, num_lanes, source_of_block=np.array(table.source), weights=weights)
        self._lengths = np.array(table.length)
        self._first_row = np.cumsum(rows) - rows
        blocks, firsts, counts = Mixture(rows, SEED, np.array(table.source), weights).runs(0)
        self.num_bytes = int(self._lengths[np.unique(blocks)].sum())
        changes = np.zeros(int(rows.sum()) + 1, dtype=np.int8)
        np.add.at(changes, self._first_row[blocks] + firsts, 1)
        np.add.at(changes, self._first_row[blocks] + firsts + counts, -1)
        self._expected = np.cumsum(changes[:-1], dtype=np.int8)  # how often each row is to come

    def walk(self, num_ranks: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and bytes [ranks] of each rank; ValueError if all together do not show what an epoch is to show."""
        came = np.zeros_like(self._expected)
        num_rows, num_bytes = np.zeros((2, num_ranks), dtype=np.int64)
        for rank in tqdm(range(num_ranks), desc=f"{num_ranks} ranks", unit=" ranks", disable=None):
            opened = np.zeros(len(self._lengths), dtype=bool)
            for start in range(rank, self.order.rows_per_epoch, num_ranks << 20):
                end = min(start + (num_ranks << 20), self.order.rows_per_epoch)
                blocks, rows = self.order.locate(np.arange(start, end, num_ranks))
                np.add.at(came, self._first_row[blocks] + rows, 1)
                opened[blocks] = True
                num_rows[rank] += len(blocks)
            num_bytes[rank] = self._lengths[opened].sum()
        if not np.array_equal(came, self._expected):
            wrong = np.flatnonzero(came != self._expected)
            raise ValueError(f"{num_ranks} ranks: {len(wrong)} rows came too often or too seldom, the first {wrong[0]}")
        return num_rows, num_bytes


def start_rank(folder: Path, row_tokens: int, num_ranks: int, num_lanes: int = NUM_LANES) -> dict[str, float]:
    """What it costs a rank in the middle to read its first batch in mid-epoch; to run in a fresh process."""
    start = time.perf_counter()
    manifest, store = read_manifest(folder)
    loaded = time.perf_counter()
    stream = RowStream(manifest, row_tokens, SEED, WEIGHTS, num_lanes=num_lanes)
    with closing(stream.batches(stream.rows_per_epoch // 3, ROWS_PER_BATCH, num_ranks // 2, num_ranks)) as batches:
        next(batches)
        first, first_bytes = time.perf_counter(), store.num_bytes
        for _ in islice(batches, 300):
            pass
    return {
        "manifest_seconds": loaded - start,
        "first_batch_seconds": first - loaded,
        "first_bytes": first_bytes,
        "peak_bytes": _peak_bytes(),
    }


def _peak_bytes() -> int:
    """Of this process alone: what getrusage tells begins with that of the parent."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024


def check_changes(
    manifest: Manifest, row_tokens: int, ranks: Sequence[int], most_ranks: int = 16, num_lanes: int = NUM_LANES
) -> int:
    """A sequence goes on through changes of the number of ranks; the rows compared.

    Up to `most_ranks` ranks of each number read their batches as in a run; ValueError where their rows are not those
    of the one global sequence.
    """
    reference = RowStream(manifest, row_tokens, SEED, WEIGHTS, num_lanes=num_lanes)
    position, num_compared = reference.rows_per_epoch // 2, 0
    for num_ranks in ranks:
        chosen = np.unique(np.linspace(0, num_ranks - 1, min(num_ranks, most_ranks)).astype(int)).tolist()
        for rank in tqdm(chosen, desc=f"going on with {num_ranks} ranks", unit=" ranks", disable=None):
            stream = RowStream(manifest, row_tokens, SEED, WEIGHTS, num_lanes=num_lanes)
            with closing(stream.batches(position, 2, rank, num_ranks)) as batches:
                came = np.concatenate([batch["input_ids"].numpy() for batch in islice(batches, NUM_BATCHES)])
            wanted = reference.rows(position + rank + num_ranks * np.arange(2 * NUM_BATCHES))
            if not np.array_equal(came, wanted):
                raise ValueError(f"rank {rank} of {num_ranks}: its rows are not those of the global sequence")
            num_compared += len(wanted)
        position += 2 * NUM_BATCHES * num_ranks
    return num_compared


def report(folder: Path, row_tokens: int, ranks: Sequence[int], num_lanes: int) -> None:
    """Walks and starts every number of ranks; prints a table."""
    manifest, _ = read_manifest(folder)
    epoch = Epoch(manifest, row_tokens, num_lanes)
    rows, size = epoch.order.rows_per_epoch, epoch.num_bytes
    print(
        f"L = {row_tokens}, {num_lanes} lanes: an epoch shows {rows:,} rows of blocks of {size / 1e9:.1f} GB compressed"
    )
    print(
        f"{'ranks':>6}{'rows a rank':>24}{'GB a rank':>11}{'of its share (min, mean, max)':>31}"
        f"{'manifest s':>12}{'first batch s':>15}{'MB for it':>11}{'peak GB':>9}"
    )
    for num_ranks in ranks:
        num_rows, num_bytes = epoch.walk(num_ranks)
        ratio = num_bytes * num_ranks / size
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            start = pool.submit(start_rank, folder, row_tokens, num_ranks, num_lanes).result()
        shares = f"{ratio.min():.2f}, {ratio.mean():.2f}, {ratio.max():.2f}"
        print(
            f"{num_ranks:6}{f'{num_rows.min():,} to {num_rows.max():,}':>24}{num_bytes.mean() / 1e9:11.2f}{shares:>31}"
            f"{start['manifest_seconds']:12.1f}{start['first_batch_seconds']:15.2f}"
            f"{start['first_bytes'] / 1e6:11.1f}{start['peak_bytes'] / 1e9:9.2f}",
            flush=True,
        )
    num_compared = check_changes(manifest, row_tokens, ranks, num_lanes=num_lanes)
    print(f"{' to '.join(map(str, ranks))} ranks in mid-epoch: one sequence, {num_compared:,} rows compared")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 64, 1024, 4096])
    parser.add_argument("--blocks", type=int, default=1_000_000)
    parser.add_argument("--row-tokens", type=int, nargs="+", default=[512])
    parser.add_argument("--lanes", type=int, default=NUM_LANES, help="corpus.num_lanes of a run")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        build_corpus(Path(folder), arguments.blocks)
        size = (Path(folder) / "manifest.json").stat().st_size
        print(f"{arguments.blocks:,} blocks; the manifest has {size / 1e6:.1f} MB")
        for row_tokens in arguments.row_tokens:
            report(Path(folder), row_tokens, arguments.ranks, arguments.lanes)


if __name__ == "__main__":
    main()
