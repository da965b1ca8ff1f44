"""Lines of a stream of bytes."""

import re
from collections.abc import Iterable, Iterator

from corpus.reading.bad_input import BadInput

MAX_LINE_BYTES = 64 << 20
_MARK = "\ufeff".encode()
_MARKS = re.compile(rb"\A(?:%s)+" % _MARK)


def split_lines(chunks: Iterable[bytes], name: str, keep_marks: bool = False) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of chunks, numbered from 1, without their newlines.

    Byte order marks at the head of a line are dropped: files that were joined have one where each began.

    Args:
        name: for messages.
        keep_marks: leave byte order marks where they are, for formats that count bytes.

    Raises BadInput for a line longer than MAX_LINE_BYTES.
    """
    number, pending, pending_bytes = 0, [], 0
    for chunk in chunks:
        # A long line is joined once, at its end: joining at every chunk would be quadratic.
        head, newline, tail = chunk.partition(b"\n")
        pending.append(head)
        pending_bytes += len(head)
        lines: list[bytes] = []
        if newline:
            *lines, tail = tail.split(b"\n")
            lines.insert(0, b"".join(pending))
            pending, pending_bytes = [tail], len(tail)
        longest = max(pending_bytes, max(map(len, lines), default=0))
        if longest > MAX_LINE_BYTES:
            raise BadInput(name, f"a line at or after line {number + 1} is longer than {MAX_LINE_BYTES >> 20} MiB")
        if not keep_marks:
            lines = [without_marks(line) if line.startswith(_MARK) else line for line in lines]
        yield from enumerate(lines, number + 1)
        number += len(lines)
    if pending_bytes:
        last = b"".join(pending)
        yield number + 1, last if keep_marks else without_marks(last)


def without_marks(line: bytes) -> bytes:
    """Return a line without the byte order marks at its head."""
    return _MARKS.sub(b"", line)
