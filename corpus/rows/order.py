"""The order of rows in training: a pure function of (seed, epoch, position), so a checkpoint stores one integer.

The runs of rows that an epoch shows (corpus/rows/mixture.py) are permuted by (seed, epoch), and the sequence of their
rows is split into lanes of equal length. Within a lane, rows are permuted in windows of a few blocks by (seed, epoch,
lane, window). Sample g of an epoch comes from the lane of slot g mod the number of lanes: every row occurs once, none
is padded or dropped. Slots are assigned to lanes in bit-reversed order, so that the slots congruent to a rank modulo
any power of two are adjacent lanes: a rank that takes every world_size-th sample reads its own stretch of the
sequence, and shares at most one block at either end with another rank.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from corpus.permutation import derive_key, mix, permutation, permute
from corpus.rows.mixture import Mixture

NUM_LANES = 256
WINDOW_BLOCKS = 8
_BLOCKS, _WINDOW = 0, 1


@dataclass(frozen=True, slots=True)
class _Epoch:
    """The runs of an epoch, in the order of its sequence of rows."""

    blocks: np.ndarray  # [runs]
    offsets: np.ndarray  # [runs] row in the block minus row in the sequence
    ends: np.ndarray  # [runs] row in the sequence after the run's last
    key: np.uint64  # for the permutations in windows


class Order:
    """Maps positions, which count rows since training began, to rows of blocks.

    Args:
        rows_per_block: int64 [N].
        seed: at least 0.
        num_lanes: V; with a multiple of the number of ranks, each rank reads its share of the bytes.
        window_blocks: rows are shuffled within windows of about so many blocks.
        source_of_block, weights: see `Mixture`.

    Attributes:
        rows_per_epoch, rows_per_source: see `Mixture`.
    """

    def __init__(
        self,
        rows_per_block: np.ndarray,
        seed: int,
        num_lanes: int = NUM_LANES,
        window_blocks: int = WINDOW_BLOCKS,
        source_of_block: np.ndarray | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        if seed < 0:
            raise ValueError(f"seed is {seed}, but must not be negative")
        if num_lanes < 1 or window_blocks < 1:
            raise ValueError(f"num_lanes ({num_lanes}) and window_blocks ({window_blocks}) must be at least 1")
        self._mixture = Mixture(rows_per_block, seed, source_of_block, weights)
        self.rows_per_epoch = self._mixture.rows_per_epoch
        self.rows_per_source = self._mixture.rows_per_source
        self.num_lanes, self.window_blocks = num_lanes, window_blocks
        self._seed = seed
        self._window_rows = -(-window_blocks * int(np.sum(rows_per_block)) // len(rows_per_block))
        full_rounds, rest = divmod(self.rows_per_epoch, num_lanes)
        self._sizes = full_rounds + (np.arange(num_lanes) < rest)  # [V] rows of each slot's lane
        slots = np.argsort(_bit_reversed(num_lanes))  # of adjacent lanes
        self._starts = np.empty(num_lanes, dtype=np.int64)  # [V] row at which each slot's lane begins
        self._starts[slots] = np.cumsum(self._sizes[slots]) - self._sizes[slots]
        # Windows end at a different time in every slot, so that reading is spread evenly over time.
        self._phases = np.arange(num_lanes) * self._window_rows // num_lanes
        self._epoch = lru_cache(maxsize=2)(self._build_epoch)

    def locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the block and the row within it of each position: int64 [n] to two int64 [n]."""
        positions = np.asarray(positions, dtype=np.int64)
        if positions.ndim != 1 or (len(positions) and positions.min() < 0):
            raise ValueError("positions must be a list of integers, none of them negative")
        epochs, samples = np.divmod(positions, self.rows_per_epoch)
        blocks, rows = np.empty_like(positions), np.empty_like(positions)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            blocks[here], rows[here] = self._locate_in_epoch(int(epoch), samples[here])
        return blocks, rows

    def num_open_blocks(self, num_lanes: int, rows_per_read: int) -> int:
        """Return how many blocks to cache so that each is read once.

        For each lane that is read, those of a window and of its two neighbours in part; for lanes that change windows
        within a read of `rows_per_read` rows, those of a second window.
        """
        num_changing = min(rows_per_read // self._window_rows + 2, num_lanes)
        return (num_lanes + num_changing) * (self.window_blocks + 2)

    def _locate_in_epoch(self, epoch: int, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        state = self._epoch(epoch)
        rounds, slots = np.divmod(samples, self.num_lanes)
        sequence = self._starts[slots] + self._permute_in_windows(state.key, slots, rounds)
        places = np.searchsorted(state.ends, sequence, side="right")
        return state.blocks[places], sequence + state.offsets[places]

    def _permute_in_windows(self, key: np.uint64, slots: np.ndarray, rounds: np.ndarray) -> np.ndarray:
        phases = self._phases[slots]
        windows = (rounds + phases) // self._window_rows
        starts = np.maximum(windows * self._window_rows - phases, 0)
        ends = np.minimum((windows + 1) * self._window_rows - phases, self._sizes[slots])
        keys = mix(mix(key + slots.astype(np.uint64)) + windows.astype(np.uint64))
        return starts + permute(rounds - starts, ends - starts, keys)

    def _build_epoch(self, epoch: int) -> _Epoch:
        blocks, firsts, counts = self._mixture.runs(epoch)
        order = permutation(len(blocks), _BLOCKS, self._seed, epoch)
        ends = np.cumsum(counts[order])
        offsets = firsts[order] + counts[order] - ends
        return _Epoch(blocks[order], offsets, ends, derive_key(_WINDOW, self._seed, epoch))


def _bit_reversed(size: int) -> np.ndarray:
    """A permutation of 0 to size - 1, sorted by their bits in reverse."""
    num_bits = (size - 1).bit_length()
    backwards = [int(f"{index:0{num_bits}b}"[::-1], 2) for index in range(size)]
    return np.argsort(np.argsort(backwards))
