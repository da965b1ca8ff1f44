"""Input files, local or at an fsspec URL (http, s3, ...): listed in a fixed order and read in place as streams.

Plain files, .gz, .xz, .bz2, .zst, and members of .zip and .tar. A file that is truncated, encrypted, changed or not
what its name says raises ValueError with its name: a corpus that silently ends early is worse than none. Empty files
among others are skipped with a warning.
"""

import functools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeVar
from zipfile import ZipFile

import fsspec

from corpus.reading import archive, tables
from corpus.reading.compression import CHUNK_BYTES, INFLATE_ERRORS, inflate, is_compressed
from corpus.reading.lines import split_lines
from corpus.remote import call, open_remote, retry

_FILE_CHUNK_BYTES = 1 << 20
# Entries of an fsspec `info` that change when a file changes.
_VERSION_KEYS = ("ETag", "etag", "LastModified", "last_modified", "mtime", "created")
OnBytes = Callable[[int], Any]  # called with the number of bytes read, to show progress
_Item = TypeVar("_Item")
# ImportError: fsspec knows the protocol, but the package behind it is not installed.
_READ_ERRORS = (OSError, ImportError, *INFLATE_ERRORS, *archive.ARCHIVE_ERRORS)


@dataclass(frozen=True, slots=True)
class Part:
    """One input stream: a file, a member of a zip or of a plain tar, or a whole compressed tar.

    Attributes:
        name: relative to the folder that contains the input.
        path: of the file, local or a URL.
        num_bytes: size as stored, from `offset` on; of a zip's member, its inflated size.
        version: changes when the file does (size and time, or what the server reports).
        member: the name inside a zip.
        offset: where a member of a plain tar begins in its file.
    """

    name: str
    path: str
    num_bytes: int
    version: str
    member: str | None = None
    offset: int = 0

    @property
    def is_splittable(self) -> bool:
        """Whether reading may begin at any byte."""
        return self.member is None and not is_packed(self.name)


def is_packed(name: str) -> bool:
    """Whether a name is that of a compressed file, an archive or a table, whose bytes are no plain text."""
    return is_compressed(name) or archive.is_tar(name) or archive.is_zip(name) or tables.is_table(name)


def find_parts(inputs: Iterable[str | Path]) -> list[Part]:
    """Return all parts of files, folders, archives and URLs, sorted by name: the order is the same on any machine.

    Empty files are left out with a warning. Raises ValueError for an input that does not exist, cannot be read or has
    only empty files, and for an empty file of a kind that is never empty, such as .gz.
    """
    found = {str(item): list(_parts_of(str(item))) for item in inputs}
    _check_empty(found)
    parts = {(_absolute(p.path), p.member, p.offset): p for of_root in found.values() for p in of_root if p.num_bytes}
    return sorted(parts.values(), key=lambda part: (part.name, part.path))


def _check_empty(found: dict[str, list[Part]]) -> None:
    empty = {root: [part.name for part in parts if not part.num_bytes] for root, parts in found.items()}
    refused = [root for root, parts in found.items() if len(parts) == len(empty[root])]
    # A text file may be empty; a compressed one never is.
    refused += [name for root, names in empty.items() if root not in refused for name in names if is_packed(name)]
    if refused:
        raise ValueError(f"{archive.first_ten(refused)}: empty, probably truncated ({len(refused)} in all)")
    for root, names in empty.items():
        archive.warn_of_empty(root, names)


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).resolve())


def _parts_of(root: str) -> Iterator[Part]:
    if root.startswith(tables.SCHEME):
        for name, file in tables.find_dataset_files(root).items():
            yield from _parts_of_file(file, name)
        return
    if "://" in root:
        yield from _parts_of_url(root)
        return
    path = Path(root)
    if not os.path.lexists(path):
        raise ValueError(f"{root}: no such file or folder")
    if not path.is_dir():
        yield from _parts_of_file(root, path.name)
        return
    files = {file.relative_to(path).as_posix(): str(file) for file in sorted(_walk(path))}
    yield from _parts_below(root, path.resolve().name, files)


def _parts_below(root: str, top: str, files: dict[str, str]) -> Iterator[Part]:
    """The parts of a folder; `files` are their paths or URLs by their name inside it."""
    kept = [name for name in files if not archive.is_hidden(PurePosixPath(name))]
    archive.warn_of_hidden(root, len(files) - len(kept))
    if not kept:
        raise ValueError(f"{root}: the folder holds no files")
    for name in kept:
        yield from _parts_of_file(files[name], str(PurePosixPath(top, name)))


def _walk(root: Path) -> Iterator[Path]:
    """Files below a folder. Unlike rglob, raises for a folder that cannot be listed and warns of linked folders."""

    def refuse(error: OSError) -> None:
        raise ValueError(f"{error.filename}: the folder cannot be listed: {error.strerror}") from error

    for folder, folders, files in os.walk(root, onerror=refuse):
        for name in folders:
            if (linked := Path(folder, name)).is_symlink():
                warnings.warn(f"{linked}: skipped, links to folders are not followed", stacklevel=2)
        yield from (Path(folder, name) for name in files)


def _parts_of_url(url: str) -> Iterator[Part]:
    try:
        system, path = fsspec.core.url_to_fs(url)
        # fsspec lists http "folders" by parsing pages for links; here an http URL is always a file.
        is_folder = not url.startswith("http") and retry(lambda: system.isdir(path))
        names = retry(lambda: system.find(path)) if is_folder else ()
        files = {name.removeprefix(path).lstrip("/"): system.unstrip_protocol(name) for name in names}
    except (*_READ_ERRORS, ValueError) as error:
        raise ValueError(f"{url}: cannot be opened: {error}") from error
    name = PurePosixPath(path.split("?")[0]).name
    yield from _parts_below(url, name, files) if is_folder else _parts_of_file(url, name)


def _parts_of_file(path: str, name: str) -> Iterator[Part]:
    for text in (path, name):  # they differ for linked folders
        if (shown := archive.encodable(text)) != text:
            raise ValueError(f"{shown}: the path is not UTF-8; rename the file or its folder")
    num_bytes, version = _stat(path)
    is_plain_tar = archive.is_plain_tar(name)
    if not num_bytes or not (archive.is_zip(name) or is_plain_tar):
        yield Part(name, path, num_bytes, version)
        return
    try:
        with open_file(path) as file:
            if is_plain_tar:
                for held in archive.list_tar(file, path):
                    yield Part(f"{name}/{held.name}", path, held.num_bytes, version, offset=held.offset)
            else:
                for member in archive.list_zip(file, path):
                    yield Part(f"{name}/{member.filename}", path, member.file_size, version, member.filename)
    except _READ_ERRORS as error:
        kind = PurePosixPath(name).suffix[1:]
        # zipfile says "not a zip file" of a file that could not be read
        reason = error.__context__ if isinstance(error.__context__, OSError) else error
        raise ValueError(f"{path}: cannot be read as {kind}, probably truncated: {reason}") from error


def _stat(path: str) -> tuple[int, str]:
    """The current size in bytes and version of a file."""
    if "://" not in path:
        if not Path(path).is_file():
            raise ValueError(f"{path}: a broken link or not a regular file")
        stat = Path(path).stat()
        return stat.st_size, f"{stat.st_size} {stat.st_mtime_ns}"
    try:
        system, stripped = fsspec.core.url_to_fs(path)
        system.invalidate_cache()
        info = retry(lambda: call(system, "info", stripped))
    except (*_READ_ERRORS, ValueError) as error:
        raise ValueError(f"{path}: cannot be opened: {error or type(error).__name__}") from error
    if info.get("size") is None:
        raise ValueError(f"{path}: the server does not report its size; download the file first")
    return info["size"], " ".join(str(info[key]) for key in ("size", *_VERSION_KEYS) if key in info)


def check_unchanged(part: Part) -> None:
    """Raise ValueError if a part's file has changed since `find_parts`: the corpus would mix two versions."""
    if _stat(part.path)[1] != part.version:
        raise ValueError(f"{part.name}: has changed since the build began; run it again")


def open_file(path: str) -> IO[bytes]:
    """Open a local path or a URL for reading bytes."""
    return open_remote(path) if "://" in path else Path(path).open("rb")


def read_stored(part: Part, start: int = 0, end: int | None = None) -> Iterator[bytes]:
    """Yield the bytes of a part, or of a range of it, as stored, in pieces. Raise ValueError if they cannot be read."""
    return _guarded(part, _read_stored(part, _FILE_CHUNK_BYTES, start, end))


def _guarded(part: Part, items: Iterator[_Item]) -> Iterator[_Item]:
    try:
        yield from items
    except _READ_ERRORS as error:
        raise ValueError(f"{part.name}: cannot be read to its end: {error}") from error


def _read_stored(part: Part, chunk_bytes: int, start: int, end: int | None) -> Iterator[bytes]:
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
    part: Part, on_bytes: Callable[[bytes], Any], start: int = 0, end: int | None = None
) -> Iterator[tuple[str, Iterator[tuple[int, bytes]]]]:
    """Yield the text streams of a part: their names and their lines, numbered from 1, without newlines.

    A part is one stream; a compressed tar is one a member, and each must be consumed before the next. A stream that
    begins after the part's first byte is named `name@start`. A byte order mark at the start of a stream is dropped.

    Args:
        on_bytes: called with the bytes read, as stored (before decompression).
        start, end: the range of bytes to read; only of parts that are splittable.

    Raises ValueError for a part that cannot be read to its end and for a line longer than MAX_LINE_BYTES.
    """
    if tables.is_table(part.name):
        yield part.name, _read_table(part, on_bytes)
        return
    is_packed_tar = part.member is None and archive.is_tar(part.name) and not archive.is_plain_tar(part.name)
    suffix = archive.compression_of(part.name)
    stored = _report(
        _read_stored(part, CHUNK_BYTES if is_compressed(suffix) else _FILE_CHUNK_BYTES, start, end), on_bytes
    )
    chunks = inflate(stored, suffix) if is_compressed(suffix) else stored
    if not is_packed_tar:
        name = f"{part.name}@{start}" if start else part.name
        yield name, split_lines(_guarded(part, chunks), name, is_first=not start)
        return
    for member, pieces in _guarded(part, archive.read_tar(chunks, part.path)):
        name = f"{part.name}/{member}"
        pieces = inflate(pieces, member) if is_compressed(member) else pieces
        yield name, split_lines(_guarded(part, pieces), name, is_first=True)


def _read_table(part: Part, on_bytes: Callable[[bytes], Any]) -> Iterator[tuple[int, bytes]]:
    if part.member or part.offset:
        raise ValueError(f"{part.name}: a table inside an archive cannot be read; unpack it first")
    for chunk in read_stored(part):  # for the checksum; the table itself is not read from front to back
        on_bytes(chunk)
    with open_file(part.path) as file:
        yield from tables.read_table(file, part.name)


def _report(chunks: Iterator[bytes], on_bytes: Callable[[bytes], Any]) -> Iterator[bytes]:
    for chunk in chunks:
        on_bytes(chunk)
        yield chunk
