"""Rows of similar length in the same step of training, so that less of a batch is padding.

The sequence of positions is cut into windows of S steps of R rows. The rows of a window are sorted by length, R at a
time make a step, and the steps are shuffled. So the order stays a pure function of the seed and the position, and what
a step shows does not depend on the number of ranks.

Sorting rows of each rank, or of each lane, apart would keep every rank at its share of the bytes, but neighbours in a
lane come from one source: on a corpus of titles, reviews and articles 41 % of a step was still padding, with this order
9 % (without any 66 %; 32 rows of at most 128 tokens a step, 64 steps).
"""

from collections.abc import Callable

import numpy as np

from corpus.permutation import permutation

_WINDOW_STEPS = 5  # key of independent random numbers


class LengthBuckets:
    """Maps the positions of training to positions in the order that knows no lengths.

    Args:
        rows_per_step: R, of all ranks.
        num_steps: S.
        lengths_of: returns the number of real tokens of the rows at positions int64 [n], int64 [n].
    """

    def __init__(
        self, rows_per_step: int, num_steps: int, seed: int, lengths_of: Callable[[np.ndarray], np.ndarray]
    ) -> None:
        self._shape, self._seed, self._lengths_of = (num_steps, rows_per_step), seed, lengths_of
        self._last: tuple[int, np.ndarray] | None = None  # the window sorted last, and its sources int64 [S * R]

    def sources(self, positions: np.ndarray) -> np.ndarray:
        """Return where the rows that come at these positions lie in the order without lengths, int64 [n]."""
        windows, inner = np.divmod(positions, self._shape[0] * self._shape[1])
        sources = np.empty_like(positions)
        for window in np.unique(windows):
            here = windows == window
            sources[here] = self._sorted(int(window))[inner[here]]
        return sources

    def _sorted(self, window: int) -> np.ndarray:
        if self._last is None or self._last[0] != window:
            num_steps, rows_per_step = self._shape
            rows = window * num_steps * rows_per_step + np.arange(num_steps * rows_per_step)
            steps = rows[np.argsort(self._lengths_of(rows), kind="stable")].reshape(self._shape)
            self._last = window, steps[permutation(num_steps, _WINDOW_STEPS, self._seed, window)].ravel()
        return self._last[1]
