"""Detection of steps that take ten times as long as usual, reported once for several in a row."""

import statistics
from collections import deque

_RATIO = 10
_MIN_SECONDS = 1.0  # shorter steps are never reported
_NUM_IGNORED = 5  # first steps, in which caches fill and kernels compile
_NUM_RECENT = 50


class SlowSteps:
    """Compares steps with the median of recent normal steps. Deterministic: ranks given the same times agree."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=_NUM_RECENT)
        self._num_steps = 0
        self._is_slow = False

    def check(self, seconds: float) -> str | None:
        """Record the time of a step; return a message if it is slow and the step before was not."""
        self._num_steps += 1
        if self._num_steps <= _NUM_IGNORED:
            return None
        usual = statistics.median(self._recent) if self._recent else seconds
        was_slow, self._is_slow = self._is_slow, seconds > max(_RATIO * usual, _MIN_SECONDS)
        if not self._is_slow:
            self._recent.append(seconds)
            return None
        return None if was_slow else f"took {seconds:.1f} s, more than {_RATIO} times the usual {usual:.2g} s"
