"""Archives (.zip, .tar, compressed tars) read in place: nothing is unpacked to disk.

A member's name is used in messages only, so no path can escape. Members with absolute or `..` paths, encrypted ones,
archives inside archives and members that inflate far beyond any text are still refused.
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

from corpus.reading.bad_input import BadInput, raises
from corpus.reading.compression import MAX_RATIO, is_bomb, is_compressed

_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".tar.zst")
_FULL_SUFFIX = {".tgz": ".gz", ".txz": ".xz", ".tbz2": ".bz2"}
# UnicodeDecodeError: a zip that declares a member's name to be UTF-8 although it is not.
ARCHIVE_ERRORS = (zipfile.BadZipFile, tarfile.TarError, NotImplementedError, RuntimeError, UnicodeDecodeError)


class Member(NamedTuple):
    """A member of a zip or of an uncompressed tar.

    Attributes:
        num_bytes: its inflated size.
        offset: where it begins in a tar; 0 in a zip.
        fault: why it cannot be read; empty if it can.
    """

    name: str
    num_bytes: int
    offset: int = 0
    fault: str = ""


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


def first_ten(names: list[str], separator: str = ", ") -> str:
    """Join the first ten names for a message."""
    return separator.join([*names[:10], *(["..."] if len(names) > 10 else [])])


def list_zip(file: IO[bytes], path: str) -> Iterator[Member]:
    """Yield the members that are not hidden, in the archive's order.

    A member that is encrypted, a zip bomb or an archive itself, or has an absolute or `..` path, has a fault. Raises
    BadInput if there are no members, or two of the same name.
    """
    with zipfile.ZipFile(file) as archive:
        members = [info for info in archive.infolist() if not info.is_dir()]
    kept = [info for info in members if not is_hidden(PurePosixPath(info.filename))]
    warn_of_hidden(path, len(members) - len(kept))
    _check_names([info.filename for info in kept], path, "zip")
    for info in kept:
        fault = _fault_of(info.filename)
        if info.flag_bits & 1:
            fault = "is encrypted"
        elif is_bomb(info.file_size, info.compress_size):
            fault = f"inflates to more than {MAX_RATIO} times its size"
        yield Member(info.filename, info.file_size, fault=fault)


def list_tar(file: IO[bytes], path: str) -> Iterator[Member]:
    """Yield the members of an uncompressed tar that are not hidden, with faults as `list_zip` does.

    Raises BadInput as `list_zip` does, and ReadError where the archive is damaged or cut short.
    """
    names: list[str | int] = []
    with tarfile.open(fileobj=file, mode="r:", tarinfo=_Header) as archive:
        for info in _each_kept(archive, path):
            names.append(info.name)
            yield Member(info.name, info.size, info.offset_data, _fault_of(info.name))
        file.seek(archive.offset)
        _check_end(iter(lambda: file.read(1 << 16), b""))
    _check_names(names, path, "tar")


def read_tar(chunks: Iterator[bytes], path: str) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Yield the name and the bytes of each member of a tar that can only be read forwards.

    A member's bytes must be consumed, if at all, before the next member is requested. Those of a member with a fault
    raise BadInput. Raises BadInput as `list_zip` does, and if all members are empty; warns of empty ones.
    """
    reader = io.BufferedReader(_ChunkReader(chunks))
    with tarfile.open(fileobj=reader, mode="r|", tarinfo=_Header) as archive:
        names: list[int] = []
        empty: list[str] = []
        for info in _each_kept(archive, path):
            names.append(xxhash.xxh3_64_intdigest(info.name.encode()))  # hashes: there may be millions of names
            is_cut = not info.size and is_compressed(info.name)  # a text file may be empty; a compressed one never is
            if fault := "empty, probably truncated" if is_cut else _fault_of(info.name):
                yield info.name, raises(BadInput(f"{path}/{info.name}", fault))
                continue
            if not info.size:
                empty.append(info.name)
                continue
            member = archive.extractfile(info)
            assert member is not None  # _each_kept gives regular files only
            yield info.name, iter(lambda member=member: member.read(1 << 16), b"")  # type: ignore[misc]
        rest = archive.fileobj
        assert rest is not None
        # Read to the end, to detect a truncation after the last member too
        _check_end(iter(lambda: rest.read(1 << 16), b""))
    _check_names(names, path, "tar")
    if len(empty) == len(names):
        raise BadInput(path, f"all {len(empty)} files are empty: {first_ten(empty)}")
    warn_of_empty(path, empty)


def _check_end(rest: Iterator[bytes]) -> None:
    """Raise ReadError if data follows what tarfile takes for the end, which may be zeros within a damaged archive."""
    if any(piece.strip(b"\0") for piece in rest):
        raise tarfile.ReadError("data follows the end of the archive; it is damaged, or two in one file")


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
            yield info
    warn_of_hidden(path, num_hidden)
    if num_links:
        warnings.warn(f"{path}: skipped {num_links} links, devices or sparse members", stacklevel=2)


def _fault_of(name: str) -> str:
    if name.startswith("/") or ".." in PurePosixPath(name).parts:
        return "has a path that leads out of the archive"
    return "is an archive itself; unpack the outer one first" if is_zip(name) or is_tar(name) else ""


def _check_names(names: Iterable[str | int], path: str, kind: str) -> None:
    names = list(names)
    if not names:
        raise BadInput(path, f"the {kind} holds no files")
    if len(set(names)) != len(names):
        raise BadInput(path, f"the {kind} holds two members of the same name")


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
