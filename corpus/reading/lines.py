"""Lines of a stream of bytes."""

from collections.abc import Iterable, Iterator

MAX_LINE_BYTES = 64 << 20
_BYTE_ORDER_MARK = "\ufeff".encode()


def split_lines(chunks: Iterable[bytes], name: str, is_first: bool) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of chunks, numbered from 1, without their newlines.

    Args:
        name: for messages.
        is_first: whether the chunks begin at the start of the stream, so that a byte order mark is dropped.

    Raises ValueError for a line longer than MAX_LINE_BYTES.
    """
    number, pending, pending_bytes = 0, [], 0
    mark = _BYTE_ORDER_MARK if is_first else b""
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
            raise ValueError(f"{name}: a line at or after line {number + 1} is longer than {MAX_LINE_BYTES >> 20} MiB")
        if lines and not number:
            lines[0] = lines[0].removeprefix(mark)
        yield from enumerate(lines, number + 1)
        number += len(lines)
    if pending_bytes:
        line = b"".join(pending)
        yield number + 1, line if number else line.removeprefix(mark)
