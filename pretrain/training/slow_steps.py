"""Steps that take ten times as long as usual: told once, however many of them follow each other."""

import statistics
from collections import deque

_RATIO = 10
_LEAST_SECONDS = 1.0  # what is shorter is no incident
_NUM_FIRST = 5  # caches fill, kernels compile
_NUM_USUAL = 50


class SlowSteps:
    """What is usual, from the last steps that were. On ranks that are told the same, it says the same."""

    def __init__(self) -> None:
        self._usual: deque[float] = deque(maxlen=_NUM_USUAL)
        self._num_seen = 0
        self._is_slow = False

    def check(self, seconds: float) -> str | None:
        """Takes note of a step; says what is wrong with it where the step before was as usual."""
        self._num_seen += 1
        if self._num_seen <= _NUM_FIRST:
            return None
        usual = statistics.median(self._usual) if self._usual else seconds
        was_slow, self._is_slow = self._is_slow, seconds > max(_RATIO * usual, _LEAST_SECONDS)
        if not self._is_slow:
            self._usual.append(seconds)
            return None
        return None if was_slow else f"took {seconds:.1f} s, more than {_RATIO} times the usual {usual:.2g} s"
