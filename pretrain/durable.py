"""Atomic writing of files and folders, folders with checksums, and file locks.

After a kill, a full disk or a power cut, a file or folder written here is either complete or absent. A sealed folder
contains files.json, written last, with the size and XXH3-128 of every other file in it.
"""

import errno
import fcntl
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TextIO

import xxhash
from pydantic import NonNegativeInt, RootModel, ValidationError
from safetensors import SafetensorError

from pretrain.settings import Settings

_SEAL = "files.json"
_CHUNK_BYTES = 1 << 22
# Answers of file systems without fsync or rename: network shares, FUSE, object stores mounted as folders.
_CANNOT_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EPERM)
_CANNOT_RENAME = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV)


class _FileRecord(Settings):
    num_bytes: NonNegativeInt
    xxh3_128: str


class _Seal(RootModel[dict[str, _FileRecord]]):
    """The files of a folder by their paths relative to it."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn errors of the disk inside the block into a ValueError that names the file."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path}: cannot be written: {reason}") from error


@contextmanager
def new_folder(folder: Path, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder to fill, which is renamed to `folder` if the block ends without an error.

    A kill leaves at most a hidden folder next to it. With `replace` an existing `folder` is removed just before the
    renaming. Raise ValueError naming the folder if it cannot be written.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with writing(folder):
            partial.mkdir(parents=True)
            yield partial
            share(partial)
            if replace:
                shutil.rmtree(folder, ignore_errors=True)
            move(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_durably(path: Path, data: str | bytes) -> None:
    """Write a file atomically: a reader sees either all of it or the old file.

    Raise ValueError naming the file if it cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    with writing(path):
        try:
            partial.write_bytes(data.encode() if isinstance(data, str) else data)
            sync(partial)
            move(partial, path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        sync(path.parent)  # the renaming itself


def sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk. Warn once where the file system cannot."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        _flush(descriptor, path)
    finally:
        os.close(descriptor)


def move(partial: Path, path: Path) -> None:
    """Rename a file or folder. Raise an OSError that says what to do where the file system cannot rename."""
    try:
        partial.replace(path)
    except OSError as error:
        if error.errno not in _CANNOT_RENAME:
            raise
        advice = f"its file system cannot rename files and folders ({error.strerror}): use a folder on another one"
        raise OSError(error.errno, advice, str(path)) from error


def _flush(descriptor: int, path: Path) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_FLUSH:
            raise
        _warn_once(path.parent, error.strerror)


@cache
def _warn_once(folder: Path, reason: str) -> None:
    message = f"{folder}: its file system cannot flush files and folders ({reason})"
    warnings.warn(f"{message}; after a power cut the newest may be missing", stacklevel=4)


def share(folder: Path) -> None:
    """Give the weights in a folder the folder's read and write permissions: safetensors creates files for one user."""
    for path in folder.rglob("*.safetensors"):
        with suppress(OSError):  # some file systems have no permissions
            path.chmod(path.parent.stat().st_mode & 0o666)


def try_lock(file: TextIO) -> bool:
    """Lock a file for this process until it is closed; return False if another process holds the lock.

    Raise OSError if the file system has no locks.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def seal(folder: Path) -> None:
    """Flush every file of a folder to the disk and write its files.json.

    Raise ValueError naming the file that cannot be written.
    """
    share(folder)
    for path in [*sorted(folder.rglob("*")), folder]:
        with writing(path):
            sync(path)
    records = {str(path.relative_to(folder)): _record(path) for path in _files(folder)}
    write_durably(folder / _SEAL, _Seal(records).model_dump_json(indent=1))


def damage(folder: Path, checksums: bool = True) -> str | None:
    """Return what is wrong with a sealed folder, naming the file, or None if it is complete and unchanged.

    Sizes are compared before checksums. Without `checksums` only names and sizes are compared.
    """
    try:
        records = _Seal.model_validate_json((folder / _SEAL).read_bytes()).root
        found = {str(path.relative_to(folder)): path for path in _files(folder)}
        for name, record in records.items():
            if name not in found:
                return f"{folder / name}: is missing"
            if (num_bytes := found[name].stat().st_size) != record.num_bytes:
                return f"{folder / name}: has {num_bytes} bytes, but was written with {record.num_bytes}"
        if unknown := sorted(found.keys() - records.keys()):
            return f"{folder / unknown[0]}: is not one of the files that were written"
        for name, record in records.items() if checksums else ():
            if _record(found[name]) != record:
                return f"{folder / name}: the checksum does not match: the file has changed since it was written"
    except ValidationError:
        return f"{folder / _SEAL}: is damaged: not a list of files with sizes and checksums"
    except OSError as error:
        return f"{error.filename or folder}: cannot be read: {error.strerror or error}"
    return None


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / _SEAL]


def _record(path: Path) -> _FileRecord:
    digest, num_bytes = xxhash.xxh3_128(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            num_bytes += len(chunk)
    return _FileRecord(num_bytes=num_bytes, xxh3_128=digest.hexdigest())
