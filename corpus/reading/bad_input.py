"""Inputs at fault: files that are damaged, cut short or not what they are read as."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, Literal

# For inputs at fault: stop with an error, or leave out what cannot be read, with a count, the name and a warning.
OnBadInput = Literal["stop", "skip"]


class BadInput(ValueError):
    """An input cannot be read further. What was read of it before is whole documents.

    Attributes:
        name: of the file or the member of an archive.
        reason: what is wrong with it.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)  # both, so that it can be pickled
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class Damaged(BadInput):
    """An input holds other bytes than were written. Any document of it may be wrong, those read before included."""


def raises(error: BadInput) -> Iterator[Any]:
    """Return an iterator that raises the error when it is read."""
    raise error
    yield


def peek(chunks: Iterable[bytes], is_enough: Callable[[bytes], bool]) -> tuple[bytes, Iterator[bytes]]:
    """Return the head of a stream, as much as is enough or all of it, and the whole stream.

    Where the stream is cut short within the head, what there is comes first and the error when that is read.
    """
    remaining, head = iter(chunks), b""
    try:
        while not is_enough(head) and (chunk := next(remaining, None)) is not None:
            head += chunk
    except BadInput as error:
        remaining = raises(error)
    return head, chain([head], remaining)
