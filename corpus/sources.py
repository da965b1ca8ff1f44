"""Input files: found in a fixed order, read in place as a stream, plain, .gz, .zst or members of a .zip.

A file that is empty, cut short, encrypted or not what its name says raises ValueError with its name: a corpus
that silently ends early is worse than none.
"""

import os
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import zstandard

MAX_LINE_BYTES = 64 << 20
_BYTE_ORDER_MARK = "\ufeff".encode()
_FILE_CHUNK_BYTES = 1 << 20
# Decompressors return all that a piece of input inflates to, at worst 32,000 times as much: small pieces.
_COMPRESSED_CHUNK_BYTES = 4 << 10
_COMPRESSED = {
    ".gz": lambda: zlib.decompressobj(wbits=31),
    ".zst": lambda: zstandard.ZstdDecompressor().decompressobj(),
}
_READ_ERRORS = (
    OSError, EOFError, zlib.error, zstandard.ZstdError, zipfile.BadZipFile, NotImplementedError, RuntimeError
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Part:
    """One input stream: a file, or a member of a zip. `name` is relative to the folder the input lies in."""

    name: str
    path: Path
    num_bytes: int
    member: str | None = None


def find_parts(inputs: Iterable[str | Path]) -> list[Part]:
    """Every part below files and folders, sorted by name so that the order never depends on the machine."""
    parts = {(part.path.resolve(), part.member): part for item in inputs for part in _parts_of(Path(item))}
    return sorted(parts.values(), key=lambda part: (part.name, str(part.path)))


def _parts_of(root: Path) -> Iterator[Part]:
    if not os.path.lexists(root):
        raise ValueError(f"{root}: no such file or folder")
    if not root.is_dir():
        yield from _parts_of_file(root, root.name)
        return
    files = sorted(_walk(root))
    kept = [path for path in files if not _is_hidden(path.relative_to(root))]
    _warn_of_hidden(str(root), len(files) - len(kept))
    if not kept:
        raise ValueError(f"{root}: the folder holds no files")
    top = root.resolve().name
    for path in kept:
        yield from _parts_of_file(path, str(PurePosixPath(top, path.relative_to(root).as_posix())))


def _walk(root: Path) -> Iterator[Path]:
    """Files below a folder. Unlike rglob, no folder is passed over in silence."""

    def refuse(error: OSError) -> None:
        raise ValueError(f"{error.filename}: the folder cannot be listed: {error.strerror}") from error

    for folder, folders, files in os.walk(root, onerror=refuse):
        for name in folders:
            if (linked := Path(folder, name)).is_symlink():
                warnings.warn(f"{linked}: skipped, links to folders are not followed", stacklevel=2)
        yield from (Path(folder, name) for name in files)


def _parts_of_file(path: Path, name: str) -> Iterator[Part]:
    if not path.is_file():
        raise ValueError(f"{path}: a broken link or not a regular file")
    num_bytes = path.stat().st_size
    if num_bytes == 0:
        raise ValueError(f"{path}: the file is empty")
    if path.suffix == ".zip":
        yield from _parts_of_zip(path, name)
    else:
        # A file name need not be UTF-8, but the manifest is.
        yield Part(os.fsencode(name).decode(errors="backslashreplace"), path, num_bytes)


def _parts_of_zip(path: Path, name: str) -> Iterator[Part]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if not info.is_dir()]
    except _READ_ERRORS as error:
        raise ValueError(f"{path}: cannot be read as zip, cut short perhaps: {error}") from error
    kept = [info for info in members if not _is_hidden(PurePosixPath(info.filename))]
    _warn_of_hidden(str(path), len(members) - len(kept))
    if not kept:
        raise ValueError(f"{path}: the zip holds no files")
    if len({info.filename for info in kept}) != len(kept):
        raise ValueError(f"{path}: the zip holds two members of one name")
    for info in kept:
        if info.flag_bits & 1:
            raise ValueError(f"{path}: member {info.filename} is encrypted")
        if info.file_size == 0:
            raise ValueError(f"{path}: member {info.filename} is empty")
        if info.filename.endswith(".zip"):
            raise ValueError(f"{path}: member {info.filename} is a zip itself; unpack the outer one first")
        yield Part(f"{name}/{info.filename}", path, info.file_size, info.filename)


def _is_hidden(path: PurePosixPath | Path) -> bool:
    return any(piece.startswith(".") or piece == "__MACOSX" for piece in path.parts)


def _warn_of_hidden(name: str, count: int) -> None:
    if count:
        warnings.warn(f"{name}: skipped {count} hidden files", stacklevel=2)


def read_lines(part: Part, on_bytes: Callable[[bytes], Any]) -> Iterator[tuple[int, bytes]]:
    """Lines of a part, numbered from 1, without newline; a byte order mark at the start is dropped.

    `on_bytes` sees the bytes as stored, before decompression. Raises ValueError for a part that cannot be
    read to its end and for a line longer than MAX_LINE_BYTES.
    """
    number, pending, pending_bytes = 0, [], 0
    for chunk in _read_chunks(part, on_bytes):
        # A long line is put together once, at its end: joining at every chunk would be quadratic.
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
            raise ValueError(
                f"{part.name}: a line at or after line {number + 1} is longer than {MAX_LINE_BYTES >> 20} MiB"
            )
        if lines and not number:
            lines[0] = lines[0].removeprefix(_BYTE_ORDER_MARK)
        yield from enumerate(lines, number + 1)
        number += len(lines)
    if pending_bytes:
        line = b"".join(pending)
        yield number + 1, line if number else line.removeprefix(_BYTE_ORDER_MARK)


def read_stored(part: Part) -> Iterator[bytes]:
    """The bytes of a part as stored, in pieces."""
    return _guarded(part, _read_stored(part, _FILE_CHUNK_BYTES, len))


def _guarded(part: Part, chunks: Iterator[bytes]) -> Iterator[bytes]:
    try:
        yield from chunks
    except _READ_ERRORS as error:
        raise ValueError(f"{part.name}: cannot be read to its end: {error}") from error


def _read_chunks(part: Part, on_bytes: Callable[[bytes], Any]) -> Iterator[bytes]:
    new_decompressor = _COMPRESSED.get(PurePosixPath(part.name).suffix)
    stored = _read_stored(part, _COMPRESSED_CHUNK_BYTES if new_decompressor else _FILE_CHUNK_BYTES, on_bytes)
    return _guarded(part, _inflate(stored, new_decompressor) if new_decompressor else stored)


def _read_stored(part: Part, chunk_bytes: int, on_bytes: Callable[[bytes], Any]) -> Iterator[bytes]:
    with part.path.open("rb") as file:
        if part.member is None:
            while chunk := file.read(chunk_bytes):
                on_bytes(chunk)
                yield chunk
            return
        with zipfile.ZipFile(file) as archive, archive.open(part.member) as member:
            while chunk := member.read(chunk_bytes):
                on_bytes(chunk)
                yield chunk


def _inflate(chunks: Iterator[bytes], new_decompressor: Callable[[], Any]) -> Iterator[bytes]:
    """All frames of a stream. Notices a missing end, which the library's reader hides."""
    frame = None
    for chunk in chunks:
        while chunk:
            frame = frame or new_decompressor()
            if data := frame.decompress(chunk):
                yield data
            # Zeros after a frame are padding (tar, tapes); no frame begins with one.
            chunk = frame.unused_data.lstrip(b"\0") if frame.eof else b""
            frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError("the compressed stream is cut short")
