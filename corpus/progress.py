"""Progress of long passes over files, documents or blocks: a tqdm bar, unless a command sets another display."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol, Self, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


class Bar(AbstractContextManager, Protocol):
    """A progress display, shown inside its `with` block."""

    def __enter__(self) -> Self: ...

    def update(self, amount: int = 1, /) -> object:
        """Add to what is done."""


# (description, total or None if unknown, unit: "B" for bytes, "" to show only the time)
MakeBar = Callable[[str, int | None, str], Bar]


def _tqdm_bar(description: str, total: int | None, unit: str) -> Bar:
    scale = unit == "B"
    hidden = None if unit else True  # None: hidden if stderr is no terminal
    return tqdm(total=total, desc=description, unit=unit if scale else f" {unit}", unit_scale=scale, disable=hidden)


_make_bar: MakeBar = _tqdm_bar


def show_progress_with(make_bar: MakeBar) -> None:
    """Use another display for all progress of this package from now on, in this process."""
    global _make_bar
    _make_bar = make_bar


def progress(description: str, total: int | None = None, unit: str = "") -> Bar:
    """Return the display of one pass: enter it with `with`, and call `update` as work is done."""
    return _make_bar(description, total, unit)


def track(items: Iterable[Item], description: str, total: int | None, unit: str) -> Iterator[Item]:
    """Yield the items and show how many of them were used."""
    with progress(description, total, unit) as bar:
        for item in items:
            yield item
            bar.update(1)
