"""The sources of a configuration: find their inputs, check them, and read them as documents or rejects."""

import warnings
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

import orjson

from corpus.config import SourceConfig
from corpus.document import Document, Reject
from corpus.reading.charset import Encoding, decode
from corpus.reading.compression import is_compressed
from corpus.reading.formats import Format, read_documents
from corpus.reading.parts import Part, find_parts, is_packed, read_stored, read_streams
from corpus.reading.tables import is_table

_NUM_LINES = 3
_READABLE = {".zip": b"PK\3\4", ".gz": b"\x1f\x8b\x08", ".xz": b"\xfd7zXZ\0", ".bz2": b"BZh", ".zst": b"(\xb5/\xfd"}
_READABLE |= {".parquet": b"PAR1"}
_MAGIC = _READABLE | {".7z": b"7z\xbc\xaf\x27\x1c", ".rar": b"Rar!\x1a\x07", ".lz4": b"\x04\x22M\x18"}
_MAGIC_BYTES = max(map(len, _MAGIC.values()))
_MAX_PARTS = 16
_MANY_FILES, _FEW_BYTES = 1000, 16 << 10  # so many files of so small a mean size are probably an article each
_SEPARATORS = {".csv": "commas", ".tsv": "tabs"}


def find_inputs(source: SourceConfig) -> list[Part]:
    """Return the parts of a source, sorted by name. The first part of each suffix, up to 16, is looked into.

    Raises ValueError for a path that does not exist or cannot be read, for a compressed file or archive without the
    suffix of its kind, and for a JSON array where a record a line is wanted. Warns of plain text that looks like JSON
    lines or a table.
    """
    parts = find_parts(source.inputs)
    kinds: dict[str, Part] = {}
    for part in parts:
        kinds.setdefault(_suffix(part.name), part)
    samples = list(islice(kinds.values(), _MAX_PARTS))
    for part in samples:
        _check_readable(part, source.format)
    for part in samples if source.format in ("lines", "files") else ():
        if doubt := _doubt_plain_text(part, source.encoding):
            warnings.warn(f"{source.name}: {doubt}", stacklevel=2)
            break
    is_many = len(parts) >= _MANY_FILES and sum(part.num_bytes for part in parts) < len(parts) * _FEW_BYTES
    if source.format == "lines" and is_many:
        advice = f"each line of {len(parts):,} small files becomes a document; if each file is one, give --format files"
        warnings.warn(f"{source.name}: {advice}", stacklevel=2)
    return parts


def read_source(
    source: SourceConfig,
    part: Part,
    on_bytes: Callable[[bytes], Any] = len,
    start: int = 0,
    end: int | None = None,
) -> Iterator[Document | Reject]:
    """Yield the documents of a part in order, and a Reject for everything that is no document.

    Args:
        source: says how the part is read; nothing is cleaned yet.
        part: one of `find_inputs(source)`.
        on_bytes: called with the bytes read, as stored (before decompression).
        start, end: the range of bytes to read; it must begin and end between documents. Default: all of the part.

    Raises ValueError if the part cannot be read to its end.
    """
    fields = source.text_fields, source.id_field, source.origin_field
    for name, lines in read_streams(part, on_bytes, start, end):
        yield from read_documents(source.format, lines, name, *fields, source.encoding)


def _check_readable(part: Part, format: Format) -> None:
    """Raise ValueError for bytes that would be read as garbage text and be rejected line by line."""
    if not is_packed(part.name):
        head = next(read_stored(part))[:_MAGIC_BYTES]
        for kind, magic in _MAGIC.items():
            if head.startswith(magic):
                advice = "rename it" if kind in _READABLE else f"{kind} cannot be read: unpack it"
                raise ValueError(f"{part.name}: is a {kind} file without that suffix; {advice}")
    if format not in ("lines", "files", "clue") and not is_table(part.name):
        streams = read_streams(part, len)  # a name of its own: the tar closes when it is garbage collected
        name, lines = next(streams)
        first = next((line for _, line in lines if line.strip()), b"")
        if first.lstrip().startswith(b"["):
            raise ValueError(f"{name}: is a JSON array; {format} needs a record a line, which jq -c '.[]' makes of it")


def _suffix(name: str) -> str:
    """The suffix below that of a compression: `.txt` for `a.txt.gz`."""
    path = PurePosixPath(name)
    return PurePosixPath(path.stem if is_compressed(name) else path.name).suffix.lower()


def _doubt_plain_text(part: Part, encoding: Encoding) -> str | None:
    """A warning if a part does not look like plain text, else None."""
    if is_table(part.name):  # known by its name: its rows are JSON lines, but come only after all of it was read
        return _json_lines(part.name)
    streams = read_streams(part, len)
    name, lines = next(streams)
    if separators := _SEPARATORS.get(_suffix(name)):
        return (
            f"{name} is read as plain text, quotes and {separators} included; "
            "to use some of its columns convert it to JSON lines"
        )
    first = list(islice((line for _, line in lines if line.strip()), _NUM_LINES))
    return _json_lines(name) if first and all(_is_object(line, encoding) for line in first) else None


def _json_lines(name: str) -> str:
    return f"{name} looks like JSON lines; give --format jsonl and --text-fields"


def _is_object(line: bytes, encoding: Encoding) -> bool:
    decoded = decode(line, encoding)
    try:
        return isinstance(decoded, tuple) and isinstance(orjson.loads(decoded[0]), dict)
    except orjson.JSONDecodeError:
        return False
