"""One source of a configuration: its inputs found, looked into, and read as documents or rejects."""

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
_MANY_FILES, _FEW_BYTES = 1000, 16 << 10  # files that seem to be an article each, by their number and mean size
_SEPARATORS = {".csv": "commas", ".tsv": "tabs"}


def find_inputs(source: SourceConfig) -> list[Part]:
    """The parts of a source. Warns, once, where they are read as plain text and seem to be JSON lines or columns;
    ValueError where they are packed and their names do not say how, or JSON and not a record a line.

    Looks into the first part of each suffix, up to 16, and of a compressed tar at its first member.
    """
    parts = find_parts(source.inputs)
    kinds: dict[str, Part] = {}
    for part in parts:
        kinds.setdefault(_suffix(part.name), part)
    looked_into = list(islice(kinds.values(), _MAX_PARTS))
    for part in looked_into:
        _refuse_unreadable(part, source.format)
    for part in looked_into if source.format in ("lines", "files") else ():
        if oddity := _oddity(part, source.encoding):
            warnings.warn(f"{source.name}: {oddity}", stacklevel=2)
            break
    is_many = len(parts) >= _MANY_FILES and sum(part.num_bytes for part in parts) < len(parts) * _FEW_BYTES
    if source.format == "lines" and is_many:
        said = f"each line of {len(parts):,} small files becomes a document; if each file is one, give --format files"
        warnings.warn(f"{source.name}: {said}", stacklevel=2)
    return parts


def read_source(
    source: SourceConfig,
    part: Part,
    on_bytes: Callable[[bytes], Any] = len,
    start: int = 0,
    end: int | None = None,
) -> Iterator[Document | Reject]:
    """The documents of a part of a source, or of a range of its bytes, in order; what is no document is a Reject.

    `on_bytes` is given the bytes as stored. ValueError for a part that cannot be read to its end.
    """
    fields = source.text_fields, source.id_field, source.origin_field
    for name, lines in read_streams(part, on_bytes, start, end):
        yield from read_documents(source.format, lines, name, *fields, source.encoding)


def _refuse_unreadable(part: Part, format: Format) -> None:
    """What would else be read as text of strange characters, and be rejected line by line."""
    if not is_packed(part.name):
        head = next(read_stored(part))[:_MAGIC_BYTES]
        for kind, magic in _MAGIC.items():
            if head.startswith(magic):
                ways = "name it so" if kind in _READABLE else f"{kind} cannot be read: unpack it"
                raise ValueError(f"{part.name}: holds {kind}, which its name does not say; {ways}")
    if format not in ("lines", "files", "clue") and not is_table(part.name):
        streams = read_streams(part, len)  # kept: a tar is closed with it
        name, lines = next(streams)
        first = next((line for _, line in lines if line.strip()), b"")
        if first.lstrip().startswith(b"["):
            raise ValueError(f"{name}: is a JSON array; {format} wants a record a line, as jq -c '.[]' makes of it")


def _suffix(name: str) -> str:
    """The suffix, under that of a compression."""
    path = PurePosixPath(name)
    return PurePosixPath(path.stem if is_compressed(name) else path.name).suffix.lower()


def _oddity(part: Part, encoding: Encoding) -> str | None:
    """What speaks against plain text in a part."""
    if is_table(part.name):  # its rows come as JSON lines, but only after all of it is read for its checksum
        return _json_lines(part.name)
    streams = read_streams(part, len)  # kept: a tar is closed with it
    name, lines = next(streams)
    if separators := _SEPARATORS.get(_suffix(name)):
        return (
            f"{name} is read as plain text, quotes and {separators} included; "
            "for some of its columns make JSON lines of it"
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
