"""How fast, how well shuffled and how watchful the reading of a corpus is.

    python bench/loader.py CORPUS [--faults 1000] [--only speed resume spread bytes faults datasets]

Speed is tokens of batches a CPU second of the whole process, from cold and every block checksummed. Compared with
`datasets` (streaming, shuffled) where that is installed. Spread is the deviation of batch means over that of batches
of independent rows, for the most unkind statistic: one that is the same for all rows of a source, or of a block.
"""

import argparse
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice, product
from pathlib import Path

# In the place of bench/, where corpus.py would hide the package of its name
sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch

from corpus.rows.open_blocks import OpenBlocks
from corpus.rows.order import Order
from corpus.rows.packing import num_packed_rows
from corpus.rows.stream import RowStream
from corpus.shards.manifest import Manifest, load_manifest, save_manifest
from corpus.shards.shard import read_block

ROW_TOKENS = (512, 128)
BATCH_ROWS = 64
MAX_TOKENS = 60_000_000


def speed(manifest: Manifest) -> Iterator[str]:
    """Plain rows, and what else batches can hold; in turn, three times."""
    kinds = (("packed", {}), ("packed", {"documents_apart": True}), ("pairs", {}))
    rates: dict[str, list[tuple[float, float]]] = {}
    for _ in range(3):
        for row_tokens, (kind, options) in product(ROW_TOKENS, kinds):
            stream = RowStream(manifest, row_tokens, 17, kind=kind, **options)
            with closing(stream.batches(0, BATCH_ROWS)) as batches:
                name = " ".join([f"L={row_tokens}", kind, *options])
                rates.setdefault(name, []).append(tokens_a_second(batches, row_tokens))
    for name, pairs in rates.items():
        core, wall = (sorted(column) for column in zip(*pairs, strict=True))
        yield f"{name}: {core[1]:.0f} Mtok/s/core ({core[0]:.0f} to {core[2]:.0f}), {wall[1]:.0f} Mtok/s of wall time"


def tokens_a_second(batches: Iterator[dict[str, torch.Tensor]], row_tokens: int) -> tuple[float, float]:
    """Millions a CPU second and a second, the first batch included."""
    start, wall, num_tokens = time.process_time(), time.perf_counter(), 0
    for batch in islice(batches, MAX_TOKENS // (BATCH_ROWS * row_tokens)):
        num_tokens += batch["input_ids"].numel()
    return num_tokens / 1e6 / (time.process_time() - start), num_tokens / 1e6 / (time.perf_counter() - wall)


def resume(manifest: Manifest) -> Iterator[str]:
    """From the manifest in memory to the first batch, in mid-epoch."""
    for row_tokens in ROW_TOKENS:
        for num_rows in (32, 64, 256):
            seconds = []
            for fraction in (0.1, 0.37, 0.5, 0.73, 0.9):
                start = time.perf_counter()
                stream = RowStream(manifest, row_tokens, 17)
                with closing(stream.batches(int(fraction * stream.rows_per_epoch), num_rows)) as batches:
                    next(batches)
                    seconds.append(time.perf_counter() - start)
            median = statistics.median(seconds)
            yield f"L={row_tokens}, {num_rows} rows: first batch after {median:.3f} s (most {max(seconds):.3f} s)"


def spread(manifest: Manifest) -> Iterator[str]:
    """On this corpus by source, and on a sorted one of 20,000 blocks, for which the order alone is needed."""
    rows = num_packed_rows(np.array(manifest.blocks.tokens), np.array(manifest.blocks.documents), 128)
    sources = np.array(manifest.blocks.source)
    one_hot = np.eye(len(manifest.sources))[sources]
    shares = np.bincount(sources, rows) / rows.sum()
    one_hot = one_hot[:, (shares > 0.02) & (shares < 1)]
    yield from spreads("by source", Order(rows, 17), one_hot)
    sorted_blocks = np.arange(20_000) / 20_000
    yield from spreads("sorted, 20,000 blocks", Order(np.full(20_000, 258), 17), sorted_blocks[:, None])


def spreads(name: str, order: Order, values: np.ndarray) -> Iterator[str]:
    """`values` [blocks, statistics] are those of the rows of a block."""
    if not values.size:
        yield f"{name}: one source only, nothing to spread"
        return
    num_rows = min(order.rows_per_epoch, 2_000_000)
    positions = np.array_split(np.arange(num_rows), max(num_rows // 100_000, 1))
    rows = np.concatenate([values[order.locate(part)[0]] for part in positions])
    for size in (64, 256, 1024):
        means = rows[: len(rows) // size * size].reshape(-1, size, rows.shape[1]).mean(axis=1)
        ratios = means.std(axis=0) / (rows.std(axis=0) / np.sqrt(size))
        yield f"{name}, batch {size}: {np.sqrt((ratios**2).mean()):.2f} x independent (most {ratios.max():.2f})"


def rank_bytes(manifest: Manifest) -> Iterator[str]:
    """Bytes that ranks read in an epoch, over their share; this corpus, and one of 20,000 blocks."""
    rows = num_packed_rows(np.array(manifest.blocks.tokens), np.array(manifest.blocks.documents), 512)
    lengths = np.array(manifest.blocks.length)
    for name, table, sizes in (
        ("this corpus", rows, lengths),
        ("20,000 blocks", np.full(20_000, 258), np.ones(20_000)),
    ):
        ratios = [
            f"{world_size} ranks {byte_ratio(table, sizes, world_size):.2f}" for world_size in (1, 2, 4, 8, 16, 64)
        ]
        yield f"{name}: {', '.join(ratios)}"


def byte_ratio(rows: np.ndarray, sizes: np.ndarray, world_size: int) -> float:
    """The most over three ranks, reading as RowStream does but counting instead of reading."""
    order = Order(rows, 17)
    num_pages = order.num_open_blocks(order.num_lanes // world_size, 2048)
    most = 0.0
    for rank in {0, world_size // 2, world_size - 1}:
        read: list[int] = []

        def count(blocks: list[int], read: list[int] = read) -> Iterator[tuple[np.ndarray]]:
            for block in blocks:
                read.append(block)
                yield (np.zeros((rows[block], 1), dtype=np.uint8),)

        open_blocks = OpenBlocks(count, rows, 1, (np.dtype(np.uint8),), num_pages, 1 << 30)
        positions = np.arange(rank, order.rows_per_epoch, world_size)
        for part in np.array_split(positions, max(len(positions) // 2048, 1)):
            open_blocks.take(*order.locate(part))
        most = max(most, float(sizes[read].sum()))
    return most / (float(sizes.sum()) / world_size)


def faults(manifest: Manifest, num_faults: int) -> Iterator[str]:
    """Single flipped bits, shards cut short and shards lost, each in a copy; every one must be found."""
    random = np.random.default_rng(1)
    kinds: dict[str, Callable[[Path, np.random.Generator], None]] = {"flip": flip, "cut": cut, "lose": lose}
    found = dict.fromkeys(kinds, 0)
    tried = dict.fromkeys(kinds, 0)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(shutil.copytree(manifest.folder, Path(folder) / "whole"))
        save_manifest(manifest, whole)  # with the digest that one written long ago lacks
        copy = Path(shutil.copytree(whole, Path(folder) / "copy"))
        names = [*(shard.name for shard in manifest.shards), "manifest.json"]
        for number in range(num_faults):
            kind = "flip" if number % 10 < 8 else ("cut", "lose")[number % 2]
            name = random.choice(names)
            place = kinds[kind](copy / name, random)
            tried[kind] += 1
            found[kind] += is_found(manifest, copy, name, place)
            shutil.copyfile(whole / name, copy / name)
    yield ", ".join(f"{kind} {found[kind]} of {tried[kind]}" for kind in kinds)
    if found != tried:
        raise SystemExit("a fault was not found")


def flip(path: Path, random: np.random.Generator) -> int:
    """The offset of the byte of which a bit was flipped."""
    place = int(random.integers(path.stat().st_size))
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1 << int(random.integers(8))]))
    return place


def cut(path: Path, random: np.random.Generator) -> int:
    place = int(random.integers(path.stat().st_size))
    os.truncate(path, place)
    return place


def lose(path: Path, random: np.random.Generator) -> int:
    path.unlink()
    return 0


def is_found(manifest: Manifest, copy: Path, name: str, place: int) -> bool:
    """Before anything is read, or by the reading of the block at the place."""
    try:
        damaged = load_manifest(copy)
        table = manifest.blocks
        for index in range(len(table)):
            inside = table.offset[index] <= place < table.offset[index] + table.length[index]
            if inside and manifest.shards[table.shard[index]].name == name:
                read_block(damaged, index)
    except ValueError:
        return True
    return False


def datasets_speed(manifest: Manifest) -> Iterator[str]:
    """The same rows in Parquet, through `datasets` as its guide has it."""
    try:
        import datasets
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        yield "skipped: datasets is not installed"
        return
    for row_tokens in ROW_TOKENS:
        stream = RowStream(manifest, row_tokens, 17)
        rows = stream.rows(np.arange(min(stream.rows_per_epoch, 12_000_000 // row_tokens)))
        with tempfile.TemporaryDirectory() as folder:
            table = pa.table({"input_ids": pa.FixedSizeListArray.from_arrays(rows.reshape(-1), row_tokens)})
            pq.write_table(table, f"{folder}/rows.parquet", row_group_size=2000)
            loaded = datasets.load_dataset("parquet", data_files=f"{folder}/*.parquet", split="train", streaming=True)
            shuffled = loaded.shuffle(seed=1, buffer_size=10_000).with_format("torch")
            loader = torch.utils.data.DataLoader(shuffled, batch_size=BATCH_ROWS)
            rate, _ = tokens_a_second(iter(loader), row_tokens)
        yield f"L={row_tokens}: {rate:.1f} Mtok/s/core"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("--faults", type=int, default=1000)
    parser.add_argument("--only", nargs="+")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    manifest = load_manifest(arguments.corpus)
    parts = {
        "speed": speed,
        "resume": resume,
        "spread": spread,
        "bytes": rank_bytes,
        "faults": lambda manifest: faults(manifest, arguments.faults),
        "datasets": datasets_speed,
    }
    print(f"{manifest.totals.tokens / 1e6:.0f}M tokens, {len(manifest.blocks)} blocks, {len(manifest.sources)} sources")
    for name in arguments.only or parts:
        for line in parts[name](manifest):
            print(f"{name}: {line}", flush=True)
    print(f"most memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
