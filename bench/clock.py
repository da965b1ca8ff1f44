"""Time on a CPU or a GPU: of whole steps, and of their phases without making the host wait inside a step."""

import time
from collections.abc import Callable
from typing import Any

import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def clock() -> float:
    """Seconds, once the device has done all it was given."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


class Phases:
    """Seconds of parts of a step: on a GPU by events in its own queue."""

    def __init__(self) -> None:
        self._marks: list[tuple[str, Any, Any]] = []
        self._begun: Any = None

    def begin(self) -> None:
        """A step begins."""
        self._marks, self._begun = [], _now()

    def timed(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its calls counted as this phase."""

        def call(*arguments: Any, **options: Any) -> Any:
            begun = _now()
            result = function(*arguments, **options)
            self._marks.append((phase, begun, _now()))
            return result

        return call

    def end(self) -> Callable[[], dict[str, float]]:
        """The step's launches are made; gives what tells its phases once the device is done."""
        marks, begun, ended = self._marks, self._begun, _now()

        def seconds() -> dict[str, float]:
            found: dict[str, float] = {}
            for phase, *ends in marks:
                found[phase] = found.get(phase, 0.0) + _seconds_between(*ends)
            return found | {"student and loss": _seconds_between(begun, ended) - sum(found.values())}

        return seconds


def _now() -> Any:
    if DEVICE.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _seconds_between(begun: Any, ended: Any) -> float:
    return float(begun.elapsed_time(ended)) / 1e3 if DEVICE.type == "cuda" else ended - begun
