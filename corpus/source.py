"""The sources of a configuration: find their inputs, check them, and read them as documents or rejects."""

import functools
import re
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

import orjson

from corpus.config import SourceConfig
from corpus.document import Document, Reason, Reject
from corpus.reading.bad_input import BadInput, Damaged
from corpus.reading.charset import Encoding, decode
from corpus.reading.columns import SEPARATORS
from corpus.reading.compression import is_compressed
from corpus.reading.formats import JSON_FORMATS, boundary, read_documents, split_stream
from corpus.reading.json_values import HEAD_BYTES, has_record_a_line
from corpus.reading.parts import Part, find_parts
from corpus.reading.streams import Split, read_stored, read_streams
from corpus.reading.tables import is_table

_TEXT_FORMATS = ("lines", "files", "clue")
_JSON = "looks like JSON; give --format jsonl and --text-fields"
_OBJECT = re.compile(rb'(\[\s*)?\{\s*"[^"\n]{1,99}"\s*:')
_NUM_LINES = 3
_MAX_PARTS = 16
_MANY_FILES, _FEW_BYTES = 1000, 16 << 10  # so many files of so small a mean size are probably an article each


def find_inputs(source: SourceConfig) -> list[Part]:
    """Return the parts of a source, sorted by name. The first part of each suffix, up to 16, is looked into.

    Raises ValueError for a path that does not exist, and BadInput for inputs at fault unless they are to be skipped:
    what cannot be read, and what is of another form than the source's format, such as JSON read as lines. Warns of JSON
    and tables that are read as files of text.
    """
    parts = find_parts(source.inputs, source.on_bad_input)
    kinds: dict[str, Part] = {}
    for part in parts:
        kinds.setdefault(_suffix(part.name), part)
    samples = [part for part in islice(kinds.values(), _MAX_PARTS) if not part.fault]
    if source.on_bad_input == "stop":
        for part in samples:
            _check_beginning(source, part)
    for part in samples if source.format in _TEXT_FORMATS else ():
        name, doubt = _doubt_plain_text(source, part)
        if doubt == _JSON and source.format != "files" and source.on_bad_input == "stop":
            raise BadInput(name, doubt)
        if doubt:
            warnings.warn(f"{source.name}: {name} {doubt}", stacklevel=2)
            break
    is_many = len(parts) >= _MANY_FILES and sum(part.num_bytes for part in parts) < len(parts) * _FEW_BYTES
    if source.format == "lines" and is_many:
        advice = f"each line of {len(parts):,} small files becomes a document; if each file is one, give --format files"
        warnings.warn(f"{source.name}: {advice}", stacklevel=2)
    return parts


def is_splittable(source: SourceConfig, part: Part) -> bool:
    """Whether a part may be read in ranges: its format has ends of documents, and its first bytes show such text."""
    if not part.is_splittable or boundary(source.format, source.encoding) is None:
        return False
    if source.format not in JSON_FORMATS:
        return True
    return has_record_a_line(b"".join(read_stored(part, 0, min(HEAD_BYTES, part.num_bytes))))


def read_source(
    source: SourceConfig,
    part: Part,
    on_bytes: Callable[[bytes], Any] = len,
    start: int = 0,
    end: int | None = None,
) -> Iterator[Document | Reject]:
    """Yield the documents of a part in order, and a Reject for everything that is no document.

    With `on_bad_input` "skip" an input at fault ends with a Reject of the reason UNREADABLE, whose label says what is
    wrong. A file that is cut short is read up to there: what comes before are whole documents. A damaged file, whose
    checksum or compression is wrong, is left out as a whole: nobody knows which of its documents are right. Of an
    archive only the members at fault are left out, where they can be told.

    Args:
        source: says how the part is read; nothing is cleaned yet.
        part: one of `find_inputs(source)`.
        on_bytes: called with the bytes read, as stored (before decompression).
        start, end: the range of bytes to read; it must begin and end between documents. Default: all of the part.

    Raises BadInput for an input at fault, unless it is skipped, and ValueError if a server does not give the bytes.
    """
    split = _split(source, is_first=not start, is_last=end is None or end == part.num_bytes)
    is_skipping = source.on_bad_input == "skip"
    damage = _find_damage(part) if is_skipping else {}
    try:
        if part.name in damage:
            raise damage[part.name]
        for name, lines in read_streams(part, on_bytes, start, end, split):
            try:
                if name in damage:
                    raise damage[name]
                yield from _documents(source, name, lines)
            except BadInput as error:
                if not is_skipping or error.name == part.name:
                    raise
                yield Reject(Reason.UNREADABLE, str(error))
    except BadInput as error:
        if not is_skipping:
            raise
        yield Reject(Reason.UNREADABLE, str(error))


def _split(source: SourceConfig, is_first: bool = True, is_last: bool = True) -> Split:
    return functools.partial(
        split_stream, format=source.format, encoding=source.encoding, is_first=is_first, is_last=is_last
    )


def _documents(source: SourceConfig, name: str, lines: Iterator[tuple[int, bytes]]) -> Iterator[Document | Reject]:
    fields = source.text_fields, source.id_field, source.origin_field
    return read_documents(source.format, lines, name, *fields, source.encoding)


def _find_damage(part: Part) -> dict[str, Damaged]:
    """The damaged streams of a part by name: known only once all of a compressed stream is read."""
    found: dict[str, Damaged] = {}
    if part.is_splittable or part.fault:
        return found
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they come again
            for _, chunks in read_streams(part, len, split=lambda chunks, _: ((0, chunk) for chunk in chunks)):
                try:
                    deque(chunks, maxlen=0)
                except Damaged as error:
                    found[error.name] = error
    except Damaged as error:
        found[error.name] = error
    except BadInput:
        pass  # cut short: what comes before is right
    return found


def _check_beginning(source: SourceConfig, part: Part) -> None:
    """Raise BadInput for bytes that would be read as garbage text and be rejected line by line."""
    if is_table(part.name):  # its rows come only after all of it was read
        return
    streams = read_streams(part, len, split=_split(source))  # named: a tar closes when it is garbage collected
    for name, lines in islice(streams, 1):
        next(_documents(source, name, lines) if source.format in SEPARATORS else lines, None)


def _suffix(name: str) -> str:
    """The suffix below that of a compression: `.txt` for `a.txt.gz`."""
    path = PurePosixPath(name)
    return PurePosixPath(path.stem if is_compressed(name) else path.name).suffix.lower()


def _doubt_plain_text(source: SourceConfig, part: Part) -> tuple[str, str]:
    """The name of a part's first stream, and why it may be no plain text; empty if it seems to be."""
    if is_table(part.name):  # known by its name: its rows are JSON lines, but come only after all of it was read
        return part.name, _JSON
    streams = read_streams(part, len, split=_split(source))
    with suppress(BadInput):  # comes again if it is not skipped
        name, lines = next(streams)
        if (format := _suffix(name)[1:]) in SEPARATORS:
            advice = f"give --format {format} and --text-fields"
            return name, f"is read as plain text, quotes and separators included; {advice}"
        first = list(islice((line for _, line in lines if line.strip()), _NUM_LINES))
        return name, _JSON if first and _is_json(first, source.encoding) else ""
    return part.name, ""


def _is_json(lines: list[bytes], encoding: Encoding) -> bool:
    """Whether lines are JSON objects, or the beginning of one or of an array over several lines."""
    are_objects = [_is_object(line, encoding) for line in lines]
    return all(are_objects) or (not are_objects[0] and _OBJECT.match(b"\n".join(lines).lstrip()) is not None)


def _is_object(line: bytes, encoding: Encoding) -> bool:
    decoded = decode(line, encoding)
    try:
        return isinstance(decoded, tuple) and isinstance(orjson.loads(decoded[0]), dict)
    except orjson.JSONDecodeError:
        return False
