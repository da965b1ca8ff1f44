"""The match step: find duplicates across all units, equal texts and texts that share most of their 5-grams.

The first document of a group is kept: the one in the lowest unit, and in it the lowest document, so that the result
does not depend on workers or kills. The keys of all documents are compared in memory range by range, with as many
ranges as keep each below MAX_JOIN_BYTES; in addition there is one byte a document. 100 million documents, about 100 GB
of text, take 66 ranges for each of the 14 bands.
"""

import functools
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import xxhash

from corpus.building.plan import Plan
from corpus.building.read_step import load_read_unit, read_folder
from corpus.building.unit_documents import NUM_HASHES, DocumentReader, Labelled
from corpus.building.work_folder import Result, load_result, save_result
from corpus.cleaning.shingles import NUM_BANDS, hash_shingles
from corpus.document import Reason
from corpus.progress import progress

MAX_JOIN_BYTES = 128 << 20
_FOLDER = "matched"
_REASONS = (None, Reason.DUPLICATE, Reason.NEAR_DUPLICATE)
# Memory for keys, positions, the copies that sorting makes, and the pairs to compare.
_JOIN_BYTES_PER_DOCUMENT = 88
_NUM_CACHED = 64
_ID_COLUMN = 2
_NUM_EXAMPLES = 3


class Matched(Result):
    """The result of matching all units."""

    num_duplicates: int
    num_near_duplicates: int


def match_units(plan: Plan, work: Path) -> Matched:
    """Find the duplicates among the documents of all units and store them. Raise ValueError if a unit is not read."""
    readers, keys = [], []
    for index in range(len(plan.units)):
        unit = load_read_unit(plan, work, index)
        readers.append(DocumentReader(read_folder(work, unit.key), unit.frames))
        keys.append(unit.key)
    key = xxhash.xxh3_128_hexdigest(" ".join(keys).encode())
    if done := load_result(Matched, work / _FOLDER, key):
        return done
    return save_result(work / _FOLDER, lambda folder: _match(plan, readers, key, folder))


def load_drops(work: Path, index: int) -> dict[int, Reason]:
    """Load the documents of a unit to drop, by index, with the reason. Raise ValueError before `match_units`."""
    path = _drops_path(work / _FOLDER, index)
    if not path.is_file():
        raise ValueError(f"{path}: does not exist; find duplicates first, with --match")
    rows = np.frombuffer(path.read_bytes(), dtype="<u4").reshape(-1, 2)
    return {document: _REASONS[reason] for document, reason in rows.tolist()}  # type: ignore[misc]


def _drops_path(folder: Path, index: int) -> Path:
    return folder / f"drops-{index:05d}.bin"


def _match(plan: Plan, readers: list[DocumentReader], key: str, folder: Path) -> Matched:
    near = plan.config.near_duplicates
    num_passes = (2 + (NUM_BANDS if near else 0)) * _num_ranges(sum(map(len, readers)))
    with progress("comparing documents", num_passes, "passes") as shown:
        join = _Join(readers, lambda: shown.update(1))
        _mark_equal(join)
        _warn_of_repeated_ids(plan, join)
        if near:
            _mark_similar(join, near.jaccard)
    for index, marks in enumerate(np.split(join.marks, join.starts[1:-1])):
        documents = np.flatnonzero(marks)
        rows = np.column_stack([documents, marks[documents]]).astype("<u4")
        _drops_path(folder, index).write_bytes(rows.tobytes())
    _, num_duplicates, num_near = np.bincount(join.marks, minlength=len(_REASONS)).tolist()
    return Matched(key=key, num_duplicates=num_duplicates, num_near_duplicates=num_near)


def _num_ranges(num_documents: int) -> int:
    return -(-num_documents * _JOIN_BYTES_PER_DOCUMENT // MAX_JOIN_BYTES)


class _Join:
    """The documents of all units, by position across units. `marks` [documents] holds the reason to drop each, or 0."""

    def __init__(self, readers: list[DocumentReader], on_range: Callable[[], object]) -> None:
        self._readers, self._on_range = readers, on_range
        self.starts = np.cumsum([0, *map(len, readers)])
        self.marks = np.zeros(self.starts[-1], dtype=np.uint8)
        self.shingles = functools.lru_cache(maxsize=_NUM_CACHED)(self._shingles)
        self._frame = functools.lru_cache(maxsize=_NUM_CACHED)(lambda unit, frame: readers[unit].read(frame))

    def ranges(self, *columns: int) -> Iterator[tuple[np.ndarray, ...]]:
        """Yield, range by range of the first key, the sorted keys of documents not dropped yet, and their positions."""
        num_ranges = _num_ranges(len(self.marks))
        for index in range(num_ranges):
            pieces = [self._select(unit, columns, index, num_ranges) for unit in range(len(self._readers))]
            *keys, positions = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
            # lexsort is stable: equal keys stay in the order of their positions.
            order = np.lexsort(keys[::-1])
            yield *(key[order] for key in keys), positions[order]
            self._on_range()

    def _select(self, unit: int, columns: tuple[int, ...], index: int, num_ranges: int) -> tuple[np.ndarray, ...]:
        keys = [self._readers[unit].column(column) for column in columns]
        is_here = ((keys[0] >> np.uint64(32)) * np.uint64(num_ranges)) >> np.uint64(32) == index
        start, end = self.starts[unit : unit + 2]
        here = np.flatnonzero(is_here & (self.marks[start:end] == 0))
        return *(key[here] for key in keys), start + here

    def units_of(self, positions: np.ndarray) -> np.ndarray:
        """The unit of each position."""
        return np.searchsorted(self.starts, positions, side="right") - 1

    def read(self, position: int) -> Labelled:
        """Read the label and text of a document."""
        unit = int(self.units_of(np.array(position)))
        frame, place = self._readers[unit].find(position - int(self.starts[unit]))
        return self._frame(unit, frame)[place]

    def _shingles(self, position: int) -> np.ndarray:
        return np.unique(hash_shingles([self.read(position)[1]])[0])


def _mark_equal(join: _Join) -> None:
    for high, low, positions in join.ranges(0, 1):
        is_repeat = (high[1:] == high[:-1]) & (low[1:] == low[:-1])
        join.marks[positions[1:][is_repeat]] = _REASONS.index(Reason.DUPLICATE)


def _warn_of_repeated_ids(plan: Plan, join: _Join) -> None:
    """Warn of documents with the same id, which may be a mistake. They are kept: ids are only used in messages."""
    source_of_unit = np.array([unit.source for unit in plan.units])
    counts: Counter[int] = Counter()
    first: dict[int, list[int]] = {}
    for keys, positions in join.ranges(_ID_COLUMN):
        repeated = np.sort(positions[1:][keys[1:] == keys[:-1]])
        sources = source_of_unit[join.units_of(repeated)]
        for source in np.unique(sources).tolist():
            here = repeated[sources == source]
            counts[source] += len(here)
            first[source] = sorted([*first.get(source, ()), *here[:_NUM_EXAMPLES].tolist()])[:_NUM_EXAMPLES]
    for source, count in sorted(counts.items()):
        examples = ", ".join(join.read(position)[0] for position in first[source])
        warnings.warn(
            f"{plan.config.sources[source].name}: {count} documents have the id of an earlier one, and are kept, "
            f"e.g. {examples}",
            stacklevel=2,
        )


def _mark_similar(join: _Join, min_jaccard: float) -> None:
    """Drop a document if it is similar to the first document with the same key in a band, or to the one just before."""
    for band in range(NUM_BANDS):
        for keys, positions in join.ranges(NUM_HASHES + band):
            is_repeat = np.append(False, keys[1:] == keys[:-1])[: len(keys)]
            numbers = np.arange(len(keys))
            first = np.maximum.accumulate(np.where(is_repeat, 0, numbers))
            members = numbers[is_repeat]
            # In the order of the documents they are compared with, so that each text is read once.
            members = members[np.lexsort((members, positions[first[members]]))]
            for member in members.tolist():
                earlier = {int(positions[first[member]]), int(positions[member - 1])}
                if any(_jaccard(join, other, int(positions[member])) >= min_jaccard for other in sorted(earlier)):
                    join.marks[positions[member]] = _REASONS.index(Reason.NEAR_DUPLICATE)


def _jaccard(join: _Join, one: int, other: int) -> float:
    """The Jaccard index of the shingles of two documents."""
    a, b = join.shingles(one), join.shingles(other)
    num_shared = len(np.intersect1d(a, b, assume_unique=True))
    return num_shared / (len(a) + len(b) - num_shared)
