"""Files that are complete or absent after a kill or a power cut: written under another name, synced, renamed."""

import errno
import os
import uuid
import warnings
from functools import cache
from pathlib import Path

# Answers of file systems without fsync or rename: network shares, FUSE, object stores mounted as folders.
_CANNOT_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EPERM)
_CANNOT_RENAME = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV)


def write_durably(path: Path, data: bytes) -> None:
    """Replace a file atomically: readers see the old contents or the new. Raise OSError if that fails."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            _flush(file.fileno(), path)
        move(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Flush a file's contents to the disk, so that they survive a power cut."""
    with path.open("rb") as file:
        _flush(file.fileno(), path)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, so that renames in it survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _flush(descriptor, folder)
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
