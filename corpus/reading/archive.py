"""Archives (.zip, .tar, compressed tars) read in place: nothing is unpacked to disk.

A member's name is used in messages only, so no path can escape. Archives with absolute or `..` paths, with members
that inflate far beyond any text, and truncated ones are still refused as a whole.
"""

import io
import os
import tarfile
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import PurePath, PurePosixPath
from typing import IO, NamedTuple

import xxhash

from corpus.reading.compression import MAX_RATIO, is_bomb, is_compressed

_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".tar.zst")
_FULL_SUFFIX = {".tgz": ".gz", ".txz": ".xz", ".tbz2": ".bz2"}
# UnicodeDecodeError: a zip that declares a member's name to be UTF-8 although it is not.
ARCHIVE_ERRORS = (zipfile.BadZipFile, tarfile.TarError, NotImplementedError, RuntimeError, UnicodeDecodeError)


class TarMember(NamedTuple):
    """A member of an uncompressed tar: `num_bytes` bytes of the file from `offset` on."""

    name: str
    num_bytes: int
    offset: int


class _Header(tarfile.TarInfo):
    """A member's header. Damage and a missing end are errors here; tarfile takes both for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str | None, errors: str) -> "_Header":
        try:
            return super().frombuf(buf, encoding, errors)  # type: ignore[arg-type]
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"damaged or truncated: {error}") from error


def encodable(name: str) -> str:
    """Return a name with bytes that are not UTF-8 (GBK ones, say) escaped, so that manifests and labels can hold it."""
    return os.fsencode(name).decode(errors="backslashreplace")


def is_zip(name: str) -> bool:
    """Whether a name has the suffix of a zip."""
    return name.lower().endswith(".zip")


def is_tar(name: str) -> bool:
    """Whether a name has the suffix of a tar, compressed or not."""
    return name.lower().endswith(_TAR_SUFFIXES)


def is_plain_tar(name: str) -> bool:
    """Whether a name has the suffix of an uncompressed tar."""
    return name.lower().endswith(".tar")


def compression_of(name: str) -> str:
    """Return the name with the suffix of its compression spelled out: `a.gz` for `a.tgz`."""
    path = PurePosixPath(name)
    return str(path.with_suffix(_FULL_SUFFIX.get(path.suffix.lower(), path.suffix)))


def is_hidden(path: PurePath) -> bool:
    """Whether a path has a part that begins with a dot, or macOS's `__MACOSX`."""
    return any((piece.startswith(".") and piece != "..") or piece == "__MACOSX" for piece in path.parts)


def warn_of_hidden(name: str, count: int) -> None:
    """Warn of hidden files that were skipped, if any."""
    if count:
        warnings.warn(f"{name}: skipped {count} hidden files", stacklevel=2)


def warn_of_empty(path: str, names: list[str]) -> None:
    """Warn of empty files that were skipped, if any."""
    if names:
        warnings.warn(f"{path}: skipped {len(names)} empty files: {first_ten(names)}", stacklevel=2)


def first_ten(names: list[str]) -> str:
    """Join the first ten names for a message."""
    return ", ".join([*names[:10], *(["..."] if len(names) > 10 else [])])


def list_zip(file: IO[bytes], path: str) -> list[zipfile.ZipInfo]:
    """Return the members that are not hidden, in the archive's order.

    Raises ValueError if there are none, or if one is encrypted, a zip bomb, an archive itself, has an absolute or `..`
    path, or has the name of another.
    """
    with zipfile.ZipFile(file) as archive:
        members = [info for info in archive.infolist() if not info.is_dir()]
    kept = [info for info in members if not is_hidden(PurePosixPath(info.filename))]
    warn_of_hidden(path, len(members) - len(kept))
    _check_names([info.filename for info in kept], path, "zip")
    for info in kept:
        if info.flag_bits & 1:
            raise ValueError(f"{path}: member {info.filename} is encrypted")
        if is_bomb(info.file_size, info.compress_size):
            raise ValueError(f"{path}: member {info.filename} inflates to more than {MAX_RATIO} times its size")
        _check_member(info.filename, info.file_size, path)
    return kept


def list_tar(file: IO[bytes], path: str) -> list[TarMember]:
    """Return the members of an uncompressed tar that are not hidden. Raise ValueError as `list_zip` does."""
    with tarfile.open(fileobj=file, mode="r:", tarinfo=_Header) as archive:
        members = [TarMember(info.name, info.size, info.offset_data) for info in _each_kept(archive, path)]
        file.seek(archive.offset)
        _check_end(iter(lambda: file.read(1 << 16), b""), path)
    _check_names([info.name for info in members], path, "tar")
    return members


def read_tar(chunks: Iterator[bytes], path: str) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Yield the name and the bytes of each member of a tar that can only be read forwards.

    A member's bytes must be consumed before the next member is requested. Raises ValueError as `list_zip` does, and if
    all members are empty; warns of empty ones.
    """
    reader = io.BufferedReader(_ChunkReader(chunks))
    with tarfile.open(fileobj=reader, mode="r|", tarinfo=_Header) as archive:
        names: list[int] = []
        empty: list[str] = []
        for info in _each_kept(archive, path):
            names.append(xxhash.xxh3_64_intdigest(info.name.encode()))  # hashes: there may be millions of names
            if not info.size:
                if is_compressed(info.name):
                    raise ValueError(f"{path}: member {info.name} is empty, probably truncated")
                empty.append(info.name)
                continue
            member = archive.extractfile(info)
            assert member is not None  # _each_kept gives regular files only
            yield info.name, iter(lambda member=member: member.read(1 << 16), b"")  # type: ignore[misc]
        rest = archive.fileobj
        assert rest is not None
        # Read to the end, to detect a truncation after the last member too
        _check_end(iter(lambda: rest.read(1 << 16), b""), path)
    _check_names(names, path, "tar")
    if len(empty) == len(names):
        raise ValueError(f"{path}: all {len(empty)} files are empty: {first_ten(empty)}")
    warn_of_empty(path, empty)


def _check_end(rest: Iterator[bytes], path: str) -> None:
    """Raise ReadError if data follows what tarfile takes for the end, which may be zeros within a damaged archive."""
    if any(piece.strip(b"\0") for piece in rest):
        raise tarfile.ReadError(f"{path}: data follows the end of the archive; it is damaged, or two in one file")


def _each_kept(archive: tarfile.TarFile, path: str) -> Iterator[tarfile.TarInfo]:
    num_hidden = num_links = 0
    for info in archive:
        archive.members.clear()  # type: ignore[attr-defined]  # tarfile would keep them all, a kilobyte each
        info.name = encodable(info.name)
        if info.isdir():
            continue
        if not info.isreg() or info.issparse():
            num_links += 1
        elif is_hidden(PurePosixPath(info.name)):
            num_hidden += 1
        else:
            _check_member(info.name, info.size, path)
            yield info
    warn_of_hidden(path, num_hidden)
    if num_links:
        warnings.warn(f"{path}: skipped {num_links} links, devices or sparse members", stacklevel=2)


def _check_member(name: str, num_bytes: int, path: str) -> None:
    if name.startswith("/") or ".." in PurePosixPath(name).parts:
        raise ValueError(f"{path}: member {name} has a path that leads out of the archive")
    if is_zip(name) or is_tar(name):
        raise ValueError(f"{path}: member {name} is an archive itself; unpack the outer one first")


def _check_names(names: Iterable[str | int], path: str, kind: str) -> None:
    names = list(names)
    if not names:
        raise ValueError(f"{path}: the {kind} holds no files")
    if len(set(names)) != len(names):
        raise ValueError(f"{path}: the {kind} holds two members of the same name")


class _ChunkReader(io.RawIOBase):
    """Chunks of bytes as a file object, for tarfile."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if not self._rest:
            self._rest = memoryview(next(self._chunks, b""))
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count
