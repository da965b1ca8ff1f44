"""Duplicates across all units: equal texts, and texts that share most of their 5-grams; the first of them stays.

First means the lowest unit, and in it the lowest document, so that neither workers nor kills show. Keys of all
documents are joined in memory by ranges of the key, as many as keep each below MAX_JOIN_BYTES; beside that there is
a byte a document. 100 million documents, about 100 GB of text, are 66 ranges for each of the 14 bands.
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
from corpus.building.unit_documents import NUM_HASHES, Labelled, Spool
from corpus.building.work_folder import Result, load_result, save_result
from corpus.cleaning.shingles import NUM_BANDS, hash_shingles
from corpus.document import Reason
from corpus.progress import progress

MAX_JOIN_BYTES = 128 << 20
_FOLDER = "matched"
_REASONS = (None, Reason.DUPLICATE, Reason.NEAR_DUPLICATE)
# Keys, positions, the copies that sorting makes of them, and who is compared with whom.
_JOIN_BYTES_PER_DOCUMENT = 88
_NUM_CACHED = 64
_ID_COLUMN = 2
_NUM_EXAMPLES = 3


class Matched(Result):
    """That all units were compared."""

    num_duplicates: int
    num_near_duplicates: int


def match_units(plan: Plan, work: Path) -> Matched:
    """Compares the documents of all units and notes those to drop. ValueError if a unit is not read yet."""
    spools, keys = [], []
    for index in range(len(plan.units)):
        unit = load_read_unit(plan, work, index)
        spools.append(Spool(read_folder(work, index), unit.frames))
        keys.append(unit.key)
    key = xxhash.xxh3_128_hexdigest(" ".join(keys).encode())
    if done := load_result(Matched, work / _FOLDER, key):
        return done
    return save_result(work / _FOLDER, lambda folder: _match(plan, spools, key, folder))


def load_drops(work: Path, index: int) -> dict[int, Reason]:
    """Documents of a unit that `match_units` drops, by number; ValueError if it did not run yet."""
    path = _drops_path(work / _FOLDER, index)
    if not path.is_file():
        raise ValueError(f"{path}: is not there; compare the units that are read with --match")
    rows = np.frombuffer(path.read_bytes(), dtype="<u4").reshape(-1, 2)
    return {document: _REASONS[reason] for document, reason in rows.tolist()}  # type: ignore[misc]


def _drops_path(folder: Path, index: int) -> Path:
    return folder / f"drops-{index:05d}.bin"


def _match(plan: Plan, spools: list[Spool], key: str, folder: Path) -> Matched:
    near = plan.config.near_duplicates
    num_passes = (2 + (NUM_BANDS if near else 0)) * _num_ranges(sum(map(len, spools)))
    with progress("comparing documents", num_passes, "passes") as shown:
        join = _Join(spools, lambda: shown.update(1))
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
    """All documents by position, which counts through the units; `marks` holds why each is dropped, or 0."""

    def __init__(self, spools: list[Spool], on_range: Callable[[], object]) -> None:
        self._spools, self._on_range = spools, on_range
        self.starts = np.cumsum([0, *map(len, spools)])
        self.marks = np.zeros(self.starts[-1], dtype=np.uint8)
        self.shingles = functools.lru_cache(maxsize=_NUM_CACHED)(self._shingles)
        self._frame = functools.lru_cache(maxsize=_NUM_CACHED)(lambda unit, frame: spools[unit].read(frame))

    def ranges(self, *columns: int) -> Iterator[tuple[np.ndarray, ...]]:
        """The keys of the documents not dropped yet, sorted, and their positions, range by range of the first."""
        num_ranges = _num_ranges(len(self.marks))
        for index in range(num_ranges):
            pieces = [self._select(unit, columns, index, num_ranges) for unit in range(len(self._spools))]
            *keys, positions = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
            # A stable sort, so that equal keys stand in the order of their positions.
            order = np.lexsort(keys[::-1])
            yield *(key[order] for key in keys), positions[order]
            self._on_range()

    def _select(self, unit: int, columns: tuple[int, ...], index: int, num_ranges: int) -> tuple[np.ndarray, ...]:
        keys = [self._spools[unit].column(column) for column in columns]
        is_here = ((keys[0] >> np.uint64(32)) * np.uint64(num_ranges)) >> np.uint64(32) == index
        start, end = self.starts[unit : unit + 2]
        here = np.flatnonzero(is_here & (self.marks[start:end] == 0))
        return *(key[here] for key in keys), start + here

    def units_of(self, positions: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.starts, positions, side="right") - 1

    def read(self, position: int) -> Labelled:
        """Label and text of a document."""
        unit = int(self.units_of(np.array(position)))
        frame, place = self._spools[unit].find(position - int(self.starts[unit]))
        return self._frame(unit, frame)[place]

    def _shingles(self, position: int) -> np.ndarray:
        return np.unique(hash_shingles([self.read(position)[1]])[0])


def _mark_equal(join: _Join) -> None:
    for high, low, positions in join.ranges(0, 1):
        is_repeat = (high[1:] == high[:-1]) & (low[1:] == low[:-1])
        join.marks[positions[1:][is_repeat]] = _REASONS.index(Reason.DUPLICATE)


def _warn_of_repeated_ids(plan: Plan, join: _Join) -> None:
    """An id only names a document in messages, so none falls for it; but two of one id may be a mistake."""
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
            f"{plan.config.sources[source].name}: {count} documents bear the id of another, and are kept, "
            f"e.g. {examples}",
            stacklevel=2,
        )


def _mark_similar(join: _Join, min_jaccard: float) -> None:
    """Drops a document if the first, or the next before it, of those that share a band with it is near it."""
    for band in range(NUM_BANDS):
        for keys, positions in join.ranges(NUM_HASHES + band):
            is_repeat = np.append(False, keys[1:] == keys[:-1])[: len(keys)]
            numbers = np.arange(len(keys))
            first = np.maximum.accumulate(np.where(is_repeat, 0, numbers))
            members = numbers[is_repeat]
            # In the order of what they are compared with, so that its text is read once.
            members = members[np.lexsort((members, positions[first[members]]))]
            for member in members.tolist():
                earlier = {int(positions[first[member]]), int(positions[member - 1])}
                if any(_jaccard(join, other, int(positions[member])) >= min_jaccard for other in sorted(earlier)):
                    join.marks[positions[member]] = _REASONS.index(Reason.NEAR_DUPLICATE)


def _jaccard(join: _Join, one: int, other: int) -> float:
    """Shared shingles of two documents over all of both."""
    a, b = join.shingles(one), join.shingles(other)
    num_shared = len(np.intersect1d(a, b, assume_unique=True))
    return num_shared / (len(a) + len(b) - num_shared)
