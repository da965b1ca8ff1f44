"""Archives, .zip and .tar (also compressed), read in place: nothing is ever unpacked to disk.

Members are bytes with a name for messages, so no member's path can lead anywhere; still, an archive made to lead
somewhere, to inflate without measure, or to end early is refused whole.
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
# UnicodeDecodeError: a zip that says of a member's name that it is UTF-8, and it is not.
ARCHIVE_ERRORS = (zipfile.BadZipFile, tarfile.TarError, NotImplementedError, RuntimeError, UnicodeDecodeError)


class TarMember(NamedTuple):
    """`num_bytes` from `offset` on in the file."""

    name: str
    num_bytes: int
    offset: int


class _Header(tarfile.TarInfo):
    """A member's header. Damage and a missing end are errors: tarfile takes both for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str | None, errors: str) -> "_Header":
        try:
            return super().frombuf(buf, encoding, errors)  # type: ignore[arg-type]
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"damaged or cut short: {error}") from error


def encodable(name: str) -> str:
    """A name of any bytes (GBK ones, say) as UTF-8 can hold it: a manifest and a label must."""
    return os.fsencode(name).decode(errors="backslashreplace")


def is_zip(name: str) -> bool:
    return name.lower().endswith(".zip")


def is_tar(name: str) -> bool:
    return name.lower().endswith(_TAR_SUFFIXES)


def is_plain_tar(name: str) -> bool:
    return name.lower().endswith(".tar")


def compression_of(name: str) -> str:
    """The name, with the suffix of its compression spelled out: `a.tgz` is `a.gz`."""
    path = PurePosixPath(name)
    return str(path.with_suffix(_FULL_SUFFIX.get(path.suffix.lower(), path.suffix)))


def is_hidden(path: PurePath) -> bool:
    return any((piece.startswith(".") and piece != "..") or piece == "__MACOSX" for piece in path.parts)


def warn_of_hidden(name: str, count: int) -> None:
    if count:
        warnings.warn(f"{name}: skipped {count} hidden files", stacklevel=2)


def warn_of_empty(path: str, names: list[str]) -> None:
    if names:
        warnings.warn(f"{path}: skipped {len(names)} empty files: {first_ten(names)}", stacklevel=2)


def first_ten(names: list[str]) -> str:
    return ", ".join([*names[:10], *(["..."] if len(names) > 10 else [])])


def list_zip(file: IO[bytes], path: str) -> list[zipfile.ZipInfo]:
    """Members but hidden ones, in the archive's order. ValueError for members that cannot or must not be read."""
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
    """Members of an uncompressed tar but hidden ones. ValueError as for a zip."""
    with tarfile.open(fileobj=file, mode="r:", tarinfo=_Header) as archive:
        members = [TarMember(info.name, info.size, info.offset_data) for info in _each_kept(archive, path)]
        file.seek(archive.offset)
        _check_end(iter(lambda: file.read(1 << 16), b""), path)
    _check_names([info.name for info in members], path, "tar")
    return members


def read_tar(chunks: Iterator[bytes], path: str) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Name and bytes of each member of a tar that can only be read forwards, one after another. Warns of empty ones.

    A member's bytes must be taken before the next member is asked for. ValueError as for a zip.
    """
    reader = io.BufferedReader(_ChunkReader(chunks))
    with tarfile.open(fileobj=reader, mode="r|", tarinfo=_Header) as archive:
        names: list[int] = []
        empty: list[str] = []
        for info in _each_kept(archive, path):
            names.append(xxhash.xxh3_64_intdigest(info.name.encode()))  # of millions, so not the names themselves
            if not info.size:
                if is_compressed(info.name):
                    raise ValueError(f"{path}: member {info.name} is empty, cut short perhaps")
                empty.append(info.name)
                continue
            member = archive.extractfile(info)
            assert member is not None  # _each_kept gives regular files only
            yield info.name, iter(lambda member=member: member.read(1 << 16), b"")  # type: ignore[misc]
        rest = archive.fileobj
        assert rest is not None
        # Read to the end, so that a cut behind the last member shows too
        _check_end(iter(lambda: rest.read(1 << 16), b""), path)
    _check_names(names, path, "tar")
    if len(empty) == len(names):
        raise ValueError(f"{path}: nothing but {len(empty)} empty files: {first_ten(empty)}")
    warn_of_empty(path, empty)


def _check_end(rest: Iterator[bytes], path: str) -> None:
    """What tarfile takes for the end of an archive may be zeros in its midst, or the first of two."""
    if any(piece.strip(b"\0") for piece in rest):
        raise tarfile.ReadError(f"{path}: more follows the end of the archive; two in one file, or damage")


def _each_kept(archive: tarfile.TarFile, path: str) -> Iterator[tarfile.TarInfo]:
    num_hidden = num_links = 0
    for info in archive:
        archive.members.clear()  # type: ignore[attr-defined]  # tarfile keeps them all, a kilobyte each
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
        raise ValueError(f"{path}: the {kind} holds two members of one name")


class _ChunkReader(io.RawIOBase):
    """Chunks as the file that tarfile wants."""

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
