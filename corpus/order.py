"""Which row comes when: pure arithmetic on (seed, epoch, position), so a checkpoint stores one integer.

Blocks are permuted by (seed, epoch) and cut into lanes of whole blocks, as equal in rows as blocks
allow. Within a lane, rows are permuted in windows of a few blocks by (seed, epoch, lane, window). Sample
g of an epoch lies in lane g mod the number of lanes that still have rows: every row once, none padded,
none dropped. Where the world size divides the number of lanes, a rank that takes every world_size-th
sample reads only its own lanes' blocks, but for the last rounds, which the longer lanes fill.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

_BLOCKS, _WINDOW = 0, 1


@dataclass(frozen=True, slots=True)
class _Epoch:
    """What one epoch's positions are read off from. N blocks, V lanes, P phases, W windows."""

    blocks: np.ndarray  # [N] block at each place of the permuted list
    block_starts: np.ndarray  # [N + 1] rows before each place
    lane_starts: np.ndarray  # [V] rows before each lane
    window_starts: np.ndarray  # [W + 1] rows before each window
    window_keys: np.ndarray  # [W, 2] lane, and window within the lane
    phase_samples: np.ndarray  # [P] samples before each phase, in which the same lanes have rows
    phase_rounds: np.ndarray  # [P] rounds before each phase
    phase_lanes: tuple[np.ndarray, ...]  # [P] lanes that have rows in it


class Order:
    """The order of the rows of blocks, `rows_per_block` [N]. Positions count rows since training began."""

    def __init__(self, rows_per_block: np.ndarray, seed: int, num_lanes: int = 256, window_blocks: int = 4) -> None:
        self._rows = np.asarray(rows_per_block, dtype=np.int64)
        if self._rows.ndim != 1 or not len(self._rows) or self._rows.min() < 1:
            raise ValueError("rows_per_block must be a list of at least one block, each of at least one row")
        if seed < 0:
            raise ValueError(f"seed is {seed}, but must not be negative")
        if num_lanes < 1 or window_blocks < 1:
            raise ValueError(f"num_lanes ({num_lanes}) and window_blocks ({window_blocks}) must be at least 1")
        self.num_lanes = min(num_lanes, len(self._rows))
        self.window_blocks = window_blocks
        self.rows_per_epoch = int(self._rows.sum())
        self._seed = seed
        self._epoch = lru_cache(maxsize=2)(self._build_epoch)
        self._window = lru_cache(maxsize=4 * self.num_lanes)(self._build_window)

    def locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The block and the row within it of each position: int64 [n] to two of int64 [n]."""
        positions = np.asarray(positions, dtype=np.int64)
        if positions.ndim != 1 or (len(positions) and positions.min() < 0):
            raise ValueError("positions must be a list of integers, none of them negative")
        epochs, samples = np.divmod(positions, self.rows_per_epoch)
        blocks, rows = np.empty_like(positions), np.empty_like(positions)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            blocks[here], rows[here] = self._locate_in_epoch(int(epoch), samples[here])
        return blocks, rows

    def _locate_in_epoch(self, epoch: int, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        state = self._epoch(epoch)
        lanes, indices = np.empty_like(samples), np.empty_like(samples)
        phases = np.searchsorted(state.phase_samples, samples, side="right") - 1
        for phase in np.unique(phases):
            here = phases == phase
            alive = state.phase_lanes[phase]
            rounds, slots = np.divmod(samples[here] - state.phase_samples[phase], len(alive))
            lanes[here], indices[here] = alive[slots], state.phase_rounds[phase] + rounds
        rows = self._permute_in_windows(epoch, state, state.lane_starts[lanes] + indices)
        places = np.searchsorted(state.block_starts, rows, side="right") - 1
        return state.blocks[places], rows - state.block_starts[places]

    def _permute_in_windows(self, epoch: int, state: _Epoch, rows: np.ndarray) -> np.ndarray:
        windows = np.searchsorted(state.window_starts, rows, side="right") - 1
        permuted = np.empty_like(rows)
        for window in np.unique(windows):
            here = windows == window
            start, stop = state.window_starts[window : window + 2]
            lane, index = state.window_keys[window]
            inside = self._window(epoch, int(lane), int(index), int(stop - start))
            permuted[here] = start + inside[rows[here] - start]
        return permuted

    def _build_epoch(self, epoch: int) -> _Epoch:
        blocks = _permutation(len(self._rows), _BLOCKS, self._seed, epoch)
        block_starts = np.concatenate([[0], np.cumsum(self._rows[blocks])])
        cuts = _cut_lanes(block_starts, self.num_lanes)
        windows = [
            (start, lane, index)
            for lane in range(self.num_lanes)
            for index, start in enumerate(range(cuts[lane], cuts[lane + 1], self.window_blocks))
        ]
        phases = _build_phases(np.diff(block_starts[cuts]))
        return _Epoch(
            blocks,
            block_starts,
            lane_starts=block_starts[cuts[:-1]],
            window_starts=block_starts[[start for start, _, _ in windows] + [len(blocks)]],
            window_keys=np.array([key for _, *key in windows]),
            phase_samples=np.array([samples for samples, _, _ in phases]),
            phase_rounds=np.array([rounds for _, rounds, _ in phases]),
            phase_lanes=tuple(lanes for _, _, lanes in phases),
        )

    def _build_window(self, epoch: int, lane: int, window: int, num_rows: int) -> np.ndarray:
        return _permutation(num_rows, _WINDOW, self._seed, epoch, lane, window)


def _permutation(size: int, *key: int) -> np.ndarray:
    """Ranks of raw bits: NumPy keeps its bit streams for ever, but not what permutation makes of them."""
    return np.argsort(np.random.PCG64(np.random.SeedSequence(key)).random_raw(size), kind="stable")


def _cut_lanes(block_starts: np.ndarray, num_lanes: int) -> np.ndarray:
    """Places [V + 1] where lanes begin: the block boundaries nearest to equal shares, none empty."""
    num_blocks = len(block_starts) - 1
    shares = block_starts[-1] * np.arange(num_lanes + 1) / num_lanes
    middles = (block_starts[:-1] + block_starts[1:]) / 2
    cuts = np.searchsorted(middles, shares)
    lanes = np.arange(num_lanes + 1)
    cuts = np.maximum.accumulate(cuts - lanes) + lanes
    cuts = np.minimum(cuts, num_blocks - num_lanes + lanes)
    cuts[0], cuts[-1] = 0, num_blocks
    return cuts


def _build_phases(lane_rows: np.ndarray) -> list[tuple[int, int, np.ndarray]]:
    """Samples and rounds before each phase and its lanes; a phase ends when its shortest lane does."""
    phases, samples, rounds = [], 0, 0
    for end in np.unique(lane_rows):
        alive = np.flatnonzero(lane_rows > rounds)
        phases.append((samples, rounds, alive))
        samples += (int(end) - rounds) * len(alive)
        rounds = int(end)
    return phases
