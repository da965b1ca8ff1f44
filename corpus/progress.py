"""How far a pass over files, documents or blocks has come: a bar on a terminal, unless a command shows it otherwise."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol, Self, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


class Shown(AbstractContextManager, Protocol):
    """What is shown from where it is entered to where it is left."""

    def __enter__(self) -> Self: ...

    def update(self, amount: int = 1, /) -> object:
        """So much more is done."""


# (what is done, how much there is of it or None, its unit; "B" for bytes, "" where only the time counts)
Show = Callable[[str, int | None, str], Shown]


def _bar(what: str, total: int | None, unit: str) -> Shown:
    scale = unit == "B"
    hidden = None if unit else True  # None: without a terminal
    return tqdm(total=total, desc=what, unit=unit if scale else f" {unit}", unit_scale=scale, disable=hidden)


_show: Show = _bar


def show_by(show: Show) -> None:
    """From now on everything in this package shows its progress by this."""
    global _show
    _show = show


def progress(what: str, total: int | None = None, unit: str = "") -> Shown:
    """What shows a pass, to be entered, told how much more is done, and left."""
    return _show(what, total, unit)


def counted(items: Iterable[Item], what: str, total: int | None, unit: str) -> Iterator[Item]:
    """The items, and meanwhile how many of them were used."""
    with progress(what, total, unit) as shown:
        for item in items:
            yield item
            shown.update(1)
