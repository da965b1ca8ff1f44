"""The inputs of a source, looked into before they are read: is each line of theirs, or each file, a text?"""

import warnings
from itertools import islice
from pathlib import PurePosixPath

import orjson

from corpus.compression import is_compressed
from corpus.encoding import Encoding, decode
from corpus.settings import SourceConfig
from corpus.sources import Part, find_parts, read_streams
from corpus.tables import is_table

_NUM_LINES = 3
_MAX_PARTS = 16
_MANY_FILES, _FEW_BYTES = 1000, 16 << 10  # files that seem to be an article each, by their number and mean size
_SEPARATORS = {".csv": "commas", ".tsv": "tabs"}


def find_inputs(source: SourceConfig) -> list[Part]:
    """The parts of a source. Warns, once, where they are read as plain text and seem to be JSON lines or columns.

    Looks into the first part of each suffix, up to 16, and of a compressed tar at its first member.
    """
    parts = find_parts(source.inputs)
    if source.format in ("lines", "files"):
        kinds: dict[str, Part] = {}
        for part in parts:
            kinds.setdefault(_suffix(part.name), part)
        for part in islice(kinds.values(), _MAX_PARTS):
            if oddity := _oddity(part, source.encoding):
                warnings.warn(f"{source.name}: {oddity}", stacklevel=2)
                break
    is_many = len(parts) >= _MANY_FILES and sum(part.num_bytes for part in parts) < len(parts) * _FEW_BYTES
    if source.format == "lines" and is_many:
        said = f"each line of {len(parts):,} small files becomes a document; if each file is one, give --format files"
        warnings.warn(f"{source.name}: {said}", stacklevel=2)
    return parts


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
