"""A cache of decoded blocks in one array, so that rows of many blocks are gathered by one indexing operation."""

import threading
from collections.abc import Callable, Iterable

import numpy as np

# The rows of a block: ids, and in a corpus with word planes those too; arrays [rows, L] of the same shape.
Planes = tuple[np.ndarray, ...]


class OpenBlocks:
    """A least-recently-used cache of the rows of blocks. Thread-safe.

    A block takes one page of the array, and several if it is unusually large. Memory is touched only as pages are
    filled.

    Args:
        read_many: yields the planes of blocks [n], in order.
        rows_per_block: int64 [N].
        row_tokens: L, the tokens of a row.
        dtypes: of each plane.
        num_pages: as many as are ever useful.
        max_bytes: limit of the array's size.
    """

    def __init__(
        self,
        read_many: Callable[[list[int]], Iterable[Planes]],
        rows_per_block: np.ndarray,
        row_tokens: int,
        dtypes: tuple[np.dtype, ...],
        num_pages: int,
        max_bytes: int,
    ) -> None:
        self._read_many = read_many
        usual_rows = _weighted_median(rows_per_block)
        self._page_rows = min(usual_rows + usual_rows // 4, int(rows_per_block.max()))
        pages_per_block = -(rows_per_block // -self._page_rows)
        self._first_page = np.concatenate([[0], np.cumsum(pages_per_block)])
        self._block_of = np.repeat(np.arange(len(rows_per_block)), pages_per_block)
        page_bytes = self._page_rows * row_tokens * sum(dtype.itemsize for dtype in dtypes)
        num_slots = max(min(num_pages, len(self._block_of), max_bytes // page_bytes), 1)
        self._planes = tuple(np.empty((num_slots * self._page_rows, row_tokens), dtype=dtype) for dtype in dtypes)
        self._slot_of = np.full(len(self._block_of), -1)
        self._page_in = np.full(num_slots, -1)
        self._last_use = np.zeros(num_slots, dtype=np.int64)
        self._clock = 0
        self._lock = threading.Lock()

    @property
    def num_slots(self) -> int:
        """Number of pages that fit into the cache."""
        return len(self._page_in)

    def take(self, blocks: np.ndarray, rows: np.ndarray) -> Planes:
        """Return the planes [n, L] of rows int64 [n] of blocks int64 [n], reading the blocks that are not cached."""
        inner, offsets = np.divmod(rows, self._page_rows)
        pages = self._first_page[blocks] + inner
        with self._lock:
            needed = np.unique(pages)
            if len(needed) <= self.num_slots:
                return self._gather(needed, pages, offsets)
            taken = tuple(np.empty((len(pages), plane.shape[1]), plane.dtype) for plane in self._planes)
            for start in range(0, len(needed), self.num_slots):
                group = needed[start : start + self.num_slots]
                here = np.flatnonzero((pages >= group[0]) & (pages <= group[-1]))
                for whole, part in zip(taken, self._gather(group, pages[here], offsets[here]), strict=True):
                    whole[here] = part
            return taken

    def _gather(self, needed: np.ndarray, pages: np.ndarray, offsets: np.ndarray) -> Planes:
        self._clock += 1
        slots = self._slot_of[needed]
        self._last_use[slots[slots >= 0]] = self._clock
        if len(missing := needed[slots < 0]):
            self._open(missing, num_free=self.num_slots - int(np.count_nonzero(slots >= 0)))
        index = self._slot_of[pages] * self._page_rows + offsets
        return tuple(plane.take(index, axis=0) for plane in self._planes)

    def _open(self, missing: np.ndarray, num_free: int) -> None:
        blocks = np.unique(self._block_of[missing]).tolist()
        pages = np.concatenate([np.arange(*self._first_page[block : block + 2]) for block in blocks])
        pages = pages[self._slot_of[pages] < 0]
        if len(pages) > num_free:
            pages = missing
        victims = np.argsort(self._last_use, kind="stable")[: len(pages)]
        slots = dict(zip(pages.tolist(), victims.tolist(), strict=True))
        for block, planes in zip(blocks, self._read_many(blocks), strict=True):
            first, end = self._first_page[block : block + 2].tolist()
            for page in range(first, end):
                if page in slots:
                    start = (page - first) * self._page_rows
                    self._fill(slots[page], page, tuple(plane[start : start + self._page_rows] for plane in planes))

    def _fill(self, slot: int, page: int, planes: Planes) -> None:
        if self._page_in[slot] >= 0:
            self._slot_of[self._page_in[slot]] = -1
        for whole, part in zip(self._planes, planes, strict=True):
            whole[slot * self._page_rows : slot * self._page_rows + len(part)] = part
        self._page_in[slot], self._slot_of[page], self._last_use[slot] = page, slot, self._clock


def _weighted_median(rows_per_block: np.ndarray) -> int:
    """Rows of the block that contains the middle row when blocks are sorted by size."""
    rows = np.sort(rows_per_block)
    return int(rows[np.searchsorted(np.cumsum(rows), rows.sum() / 2)])
