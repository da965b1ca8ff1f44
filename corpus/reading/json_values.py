"""JSON records that are not a line each: the elements of an array, and values over several lines or several a line.

They are cut out one after another, so memory does not grow with the file; only strings and brackets are looked at.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import islice

import orjson

from corpus.document import excerpt
from corpus.reading import lines as text_lines
from corpus.reading.bad_input import BadInput, peek
from corpus.reading.charset import Encoding
from corpus.reading.lines import split_lines

HEAD_BYTES = 1 << 20  # as much of a first line is looked at
_SPACE = b" \t\r\n\xef\xbb\xbf"
_TOKEN = re.compile(rb'\\.|["{}\[\]\n]', re.DOTALL)
_NUM_LINES = 3


def split_records(chunks: Iterable[bytes], name: str, encoding: Encoding) -> Iterator[tuple[int, bytes]]:
    """Yield the JSON records of a whole stream, numbered by the line they begin at: its lines, or its values.

    What is no object is yielded too, to be rejected and counted. Raises BadInput for text that is no JSON, for a value
    that has no end or is too long, and for values that are not a line each in another encoding than UTF-8.
    """
    # The first line that is not blank, or as much as is looked at
    head, chunks = peek(chunks, lambda head: len(head) >= HEAD_BYTES or b"\n" in head.lstrip(_SPACE))
    if has_record_a_line(head):
        _check_json(head, name)
        yield from split_lines(chunks, name)
    elif encoding == "utf-8" or encoding.startswith("utf-16"):  # which is UTF-8 by now
        yield from _split_values(chunks, name)
    else:
        reason = "is a JSON array or has records over several lines, which are read in UTF-8 alone; convert it first"
        raise BadInput(name, f"{reason}, e.g. iconv -f gb18030 -t utf-8 FILE")


def _check_json(head: bytes, name: str) -> None:
    lines = islice((line for line in head.splitlines() if line.strip(_SPACE)), _NUM_LINES)
    first = [line.strip(_SPACE) for line in lines]
    if first and not any(line[:1] in (b"{", b'"') for line in first):
        found = excerpt(first[0][:200].decode(errors="replace"))
        raise BadInput(name, f"is no JSON, it begins with {found!r}; give the --format that it has")


def has_record_a_line(head: bytes) -> bool:
    """Return whether a text of JSON records has one a line, judged by its first line that is not blank."""
    line, newline, _ = head.lstrip(_SPACE)[:HEAD_BYTES].partition(b"\n")
    if not line.startswith(b"{"):
        return not line.startswith(b"[")
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        depth, in_string, end = _scan(line)
        rest = line[end:].strip(_SPACE) if end else b""
        goes_on = bool(newline) and depth > 0 and not in_string
        return not (goes_on or rest == b"," or rest.lstrip(b", ").startswith(b"{"))
    return True


def _scan(line: bytes) -> tuple[int, bool, int]:
    """The depth of brackets at the end of a line, whether a string is open there, and where the first value ends."""
    depth, in_string, end = 0, False, 0
    for match in _TOKEN.finditer(line):
        token = match[0]
        if token == b'"':
            in_string = not in_string
        elif not in_string and token in (b"{", b"[", b"}", b"]"):
            depth += 1 if token in b"{[" else -1
            end = end or (match.end() if depth == 0 else 0)
    return depth, in_string, end


def _split_values(chunks: Iterable[bytes], name: str) -> Iterator[tuple[int, bytes]]:
    """Yield the values of an array, or those that stand one after another, and what else lies between them."""
    line = first = 1
    base, depth, in_string = 0, 0, False  # base: 1 inside the outermost array, whose elements are the records
    pieces: list[bytes] = []
    num_bytes = 0
    for chunk in _whole_escapes(chunks):
        start = 0
        for match in _TOKEN.finditer(chunk):
            token, at, outer = match[0], match.start(), base
            piece_end = cut = -1  # where what is pending ends, and where the next piece begins
            if token == b"\n":
                line += 1
                if in_string:  # no string of JSON goes on in the next line: go on behind the broken value
                    in_string, depth, piece_end = False, base, at
            elif token == b'"':
                in_string = not in_string
            elif in_string or len(token) > 1:
                pass
            elif token in (b"{", b"["):
                if depth == base:
                    piece_end = at
                    if token == b"[" and not depth:
                        base, cut = 1, at + 1
                depth += 1
            elif depth:
                depth -= 1
                if depth == base:
                    piece_end = at + 1
                elif depth < base:
                    base, piece_end, cut = 0, at, at + 1
            if piece_end >= 0:
                pieces.append(chunk[start:piece_end])
                yield from _record(pieces, first, outer)
                pieces, num_bytes, first = [], 0, line
                start = cut if cut >= 0 else piece_end
        pieces.append(chunk[start:])
        num_bytes += len(pieces[-1])
        if num_bytes > text_lines.MAX_LINE_BYTES:
            limit = f"{text_lines.MAX_LINE_BYTES >> 20} MiB"
            advice = "if the records lie in one of its fields, jq -c '.FIELD[]' FILE makes lines of them"
            raise BadInput(name, f"the JSON value at or after line {first} is longer than {limit}; {advice}")
    if depth or in_string:
        raise BadInput(
            name, f"the JSON value at or after line {first} has no end; the file is cut short, or lacks a quote"
        )
    yield from _record(pieces, first, base)


def _whole_escapes(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Chunks of which none ends between a backslash and what it escapes."""
    rest = b""
    for chunk in chunks:
        data = rest + chunk
        kept = data.rstrip(b"\\")
        rest = data[len(kept) :]
        if kept:
            yield kept
    if rest:
        yield rest


def _record(pieces: list[bytes], number: int, base: int) -> Iterator[tuple[int, bytes]]:
    """What was cut out, if it is more than space and commas; strings and numbers of an array as a list."""
    text = b"".join(pieces)
    value = text.strip(b"," + _SPACE)
    if value:
        head = text[: len(text) - len(text.lstrip(b"," + _SPACE))]
        is_scalar = base and value[:1] not in (b"{", b"[")
        yield number + head.count(b"\n"), b"[" + value + b"]" if is_scalar else value
