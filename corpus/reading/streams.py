"""Parts read in place, as streams of bytes and of lines.

Plain files, .gz, .xz, .bz2, .zst, and members of .zip and .tar. A file that is truncated, encrypted, changed or not
what its name says raises BadInput with its name: a corpus that silently ends early is worse than none.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from tarfile import TarError
from typing import IO, Any, TypeVar
from zipfile import ZipFile

import xxhash

from corpus.reading import archive, tables
from corpus.reading.bad_input import BadInput, Damaged
from corpus.reading.compression import CHUNK_BYTES, INFLATE_ERRORS, inflate, is_compressed
from corpus.reading.lines import split_lines
from corpus.reading.parts import Part, stat_file
from corpus.remote import open_remote

_FILE_CHUNK_BYTES = 1 << 20
OnBytes = Callable[[int], Any]  # called with the number of bytes read, to show progress
# ImportError: fsspec knows the protocol, but the package behind it is not installed.
READ_ERRORS = (OSError, ImportError, *INFLATE_ERRORS, *archive.ARCHIVE_ERRORS)
# The bytes of a stream and its name to numbered lines, or to whatever else a format takes for its records.
Split = Callable[[Iterable[bytes], str], Iterator[tuple[int, bytes]]]
_Item = TypeVar("_Item")


def check_unchanged(part: Part) -> None:
    """Raise ValueError if a part's file has changed since `find_parts`: the corpus would mix two versions."""
    if not part.fault and stat_file(part.path)[1] != part.version:
        raise ValueError(f"{part.name}: has changed since the build began; run it again")


def open_file(path: str) -> IO[bytes]:
    """Open a local path or a URL for reading bytes."""
    return open_remote(path) if "://" in path else Path(path).open("rb")


def read_stored(part: Part, start: int = 0, end: int | None = None) -> Iterator[bytes]:
    """Yield the bytes of a part, or of a range of it, as stored, in pieces; none of a part with a fault.

    Raises BadInput if they cannot be read, ValueError if a server does not give them.
    """
    return _guarded(part, part.name, _read_stored(part, _FILE_CHUNK_BYTES, start, end))


def hash_stored(part: Part, start: int = 0, end: int | None = None, on_bytes: OnBytes = lambda _: None) -> str:
    """Return the XXH3-64 of the bytes of a part as stored, as far as they can be read."""
    hasher = xxhash.xxh3_64()
    with suppress(BadInput):
        for chunk in read_stored(part, start, end):
            hasher.update(chunk)
            on_bytes(len(chunk))
    return hasher.hexdigest()


def _guarded(part: Part, name: str, items: Iterator[_Item]) -> Iterator[_Item]:
    """Turn the errors of reading into BadInput of this name."""
    try:
        yield from items
    except READ_ERRORS as error:
        reason = f"cannot be read to its end: {error}"
        if "://" in part.path and isinstance(error, (OSError, ImportError)):
            raise ValueError(f"{name}: {reason}") from error  # a server's fault, which may pass
        kind = BadInput if isinstance(error, (OSError, EOFError, TarError)) else Damaged
        raise kind(name, reason) from error


def _read_stored(part: Part, chunk_bytes: int, start: int, end: int | None) -> Iterator[bytes]:
    if part.fault:
        return
    if part.member is not None:
        with _open_zip(part.path, part.version).open(part.member) as member:
            yield from _read_exactly(member, chunk_bytes, part.num_bytes)
        return
    is_remote_member = part.offset and "://" in part.path
    with nullcontext(_open_tar(part.path, part.version)) if is_remote_member else open_file(part.path) as file:
        file.seek(part.offset + start)
        yield from _read_exactly(file, chunk_bytes, (part.num_bytes if end is None else end) - start)


@functools.lru_cache(maxsize=1)
def _open_tar(url: str, version: str) -> IO[bytes]:
    """The last tar stays open: one request fetches many small members."""
    return open_remote(url)


@functools.lru_cache(maxsize=1)
def _open_zip(path: str, version: str) -> ZipFile:
    """The last zip stays open: opening it reads the names of all its members."""
    return ZipFile(open_remote(path) if "://" in path else path)


def _read_exactly(file: IO[bytes], chunk_bytes: int, num_bytes: int) -> Iterator[bytes]:
    while num_bytes:
        chunk = file.read(min(chunk_bytes, num_bytes))
        if not chunk:
            raise EOFError(f"{num_bytes} bytes are missing")
        num_bytes -= len(chunk)
        yield chunk


def read_streams(
    part: Part,
    on_bytes: Callable[[bytes], Any],
    start: int = 0,
    end: int | None = None,
    split: Split = split_lines,
) -> Iterator[tuple[str, Iterator[tuple[int, bytes]]]]:
    """Yield the text streams of a part: their names and their lines, numbered from 1, without newlines.

    A part is one stream; a compressed tar is one a member, and each must be consumed, if at all, before the next. A
    stream that begins after the part's first byte is named `name@start`. The rows of a table are JSON lines.

    Args:
        on_bytes: called with the bytes read, as stored (before decompression).
        start, end: the range of bytes to read; only of parts that are splittable.
        split: cuts the text into numbered lines.

    Raises BadInput for a part that cannot be read to its end, named after the member if it alone is at fault, and
    what `split` raises. Raises ValueError if a server does not give the bytes.
    """
    if part.fault:
        raise Damaged(part.name, part.fault)
    if tables.is_table(part.name):
        yield part.name, _read_table(part, on_bytes)
        return
    is_packed_tar = part.member is None and archive.is_tar(part.name) and not archive.is_plain_tar(part.name)
    suffix = archive.compression_of(part.name)
    stored = _report(
        _read_stored(part, CHUNK_BYTES if is_compressed(suffix) else _FILE_CHUNK_BYTES, start, end), on_bytes
    )
    chunks = _guarded(part, part.name, inflate(stored, suffix) if is_compressed(suffix) else stored)
    if not is_packed_tar:
        name = f"{part.name}@{start}" if start else part.name
        yield name, split(chunks, name)
        return
    for member, pieces in _guarded(part, part.name, archive.read_tar(chunks, part.path)):
        name = f"{part.name}/{member}"
        pieces = inflate(pieces, member) if is_compressed(member) else pieces
        yield name, split(_guarded(part, name, pieces), name)


def _read_table(part: Part, on_bytes: Callable[[bytes], Any]) -> Iterator[tuple[int, bytes]]:
    if part.member or part.offset:
        raise BadInput(part.name, "a table inside an archive cannot be read; unpack it first")
    for chunk in read_stored(part):  # for the checksum; the table itself is not read from front to back
        on_bytes(chunk)
    with open_file(part.path) as file:
        yield from tables.read_table(file, part.name)


def _report(chunks: Iterator[bytes], on_bytes: Callable[[bytes], Any]) -> Iterator[bytes]:
    for chunk in chunks:
        on_bytes(chunk)
        yield chunk
