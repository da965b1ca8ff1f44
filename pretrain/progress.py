"""Progress of long phases: a bar on a terminal, otherwise a line at least once a minute; nothing for quick phases.

This module must stay quick to import: ranks/stopping.py, which a process imports first, needs it.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ContextDecorator
from types import TracebackType
from typing import TypeVar

from tqdm import tqdm

FIRST_SECONDS = 5.0  # a phase that takes longer prints a line
LINE_SECONDS = 60.0  # between two lines

Item = TypeVar("Item")
_running: list["Progress"] = []


def say(text: str) -> None:
    """Print a line to stderr, above the progress bar if there is one."""
    tqdm.write(text, file=sys.stderr)


def busy_with(otherwise: str) -> str:
    """Return the name of the phase that is running, the innermost one, or `otherwise`; safe in any thread."""
    return _running[-1].what if _running else otherwise


def duration(seconds: float) -> str:
    """Format a time as 0:05 or 1:02:03."""
    return tqdm.format_interval(seconds).removeprefix("0")


class Heartbeat:
    """A thread that calls `tell` after five seconds and then once a minute, unless `postpone` was called meanwhile."""

    def __init__(self, tell: Callable[[], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._tell, self._clock = tell, clock
        self._due = clock() + FIRST_SECONDS
        self._stopped = threading.Event()

    def start(self) -> None:
        """Start the thread, which ends with the process or with `stop`."""
        threading.Thread(target=self._watch, name="heartbeat", daemon=True).start()

    def _watch(self) -> None:
        while not self._stopped.wait(max(0.0, self._due - self._clock())):
            self.look()

    def look(self) -> None:
        """Call `tell` if a line is due."""
        if self._clock() >= self._due:
            self.postpone()
            self._tell()

    def postpone(self) -> None:
        """Make the next line due a minute from now."""
        self._due = self._clock() + LINE_SECONDS

    def stop(self) -> None:
        """Print no more lines."""
        self._stopped.set()


class Progress(ContextDecorator):
    """A phase of a command that shows how far it has come. Use it in a `with` statement or as a decorator.

    On a terminal, a phase with a total shows a bar. Otherwise a phase that takes longer than five seconds prints a
    line, then one a minute, and at its end how long it took. Only rank 0 prints.

    Args:
        what: name of the phase.
        total, unit: amount of work and its unit ("B" for bytes); without a unit only the time is shown.
        initial: amount already done before.
        hidden: print nothing.
    """

    def __init__(
        self,
        what: str,
        total: int | None = None,
        unit: str = "",
        *,
        initial: int = 0,
        hidden: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done = self._initial = initial
        self.seconds = 0.0  # how long the phase took, set at its end
        self._hidden, self._clock = hidden, clock
        self._bar: tqdm | None = None
        self._heartbeat: Heartbeat | None = None

    def _recreate_cm(self) -> "Progress":
        return Progress(self.what, self.total, self.unit, initial=self._initial, hidden=self._hidden)

    def __enter__(self) -> "Progress":
        self._started = self._clock()
        self._is_shown = not self._hidden and os.environ.get("RANK", "0") == "0"  # set whatever the launcher
        if self._is_shown and self.total is not None and sys.stderr.isatty():
            scale = self.unit == "B"
            self._bar = tqdm(
                total=self.total, initial=self.done, desc=self.what, unit=self.unit if scale else f" {self.unit}",
                unit_scale=scale, file=sys.stderr, dynamic_ncols=True, leave=False,
            )  # fmt: skip
        elif self._is_shown:
            self._heartbeat = Heartbeat(lambda: say(self.line()), self._clock)
            self._heartbeat.start()
        _running.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _running.remove(self)
        self.seconds = self._clock() - self._started
        if self._heartbeat:
            self._heartbeat.stop()
        if self._bar is not None:
            self._bar.close()
        if kind is None and self._is_shown and self.seconds >= FIRST_SECONDS:
            say(f"{self.what}: {self._amount(self.done) if self.unit else 'done'} in {duration(self.seconds)}")

    def update(self, amount: int = 1) -> None:
        """Count `amount` more as done."""
        self.done += amount
        if self._bar is not None:
            self._bar.update(amount)

    def over(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items; each counts as done when the next one is asked for."""
        with self:
            for item in items:
                yield item
                self.update()

    def line(self) -> str:
        """Return the phase, the amount done, the rate and the time left, as far as they are known."""
        seconds = self._clock() - self._started
        rate = (self.done - self._initial) / seconds if seconds else 0.0
        so_far = f"{duration(seconds)} so far"
        if not self.unit:
            return f"{self.what}: {so_far}"
        parts = [self._amount(self.done)]
        if self.total:
            parts = [f"{self._amount(self.done)} of {self._amount(self.total)} ({self.done / self.total:.0%})"]
        if rate:
            parts.append(f"{self._amount(rate)}/s" if rate >= 1 else f"{1 / rate:.1f} s each")
        parts.append(f"{duration((self.total - self.done) / rate)} left" if self.total and rate else so_far)
        return f"{self.what}: {', '.join(parts)}"

    def _amount(self, number: float) -> str:
        return f"{tqdm.format_sizeof(number)}B" if self.unit == "B" else f"{number:,.0f} {self.unit}"
