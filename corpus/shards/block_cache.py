"""A cache folder for the blocks of remote corpora: of bounded size, shared by all processes of a host."""

import contextlib
import errno
import fcntl
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

_FOLDER_NAME = "blocks"  # other files in the given folder are never touched
_LOCK_NAME = "total_bytes.lock"
_KEPT_SHARE = 0.9
_LOCK_SECONDS = 60.0  # a write takes milliseconds; a process that holds the lock for longer hangs


class BlockCache:
    """A least-recently-used cache of blocks as files, in a subfolder of the given folder. It may be deleted any time.

    Args:
        folder: made if it does not exist.
        max_bytes: limit of the sum of all sizes.

    Files are written atomically under a lock file, which also stores the sum of sizes, so that no writer needs to list
    the folder. If the cache cannot be written (a full disk), it warns once and is only read from then on.

    Raises ValueError if the folder cannot be used.
    """

    def __init__(self, folder: str | Path, max_bytes: int) -> None:
        self._folder = Path(folder) / _FOLDER_NAME
        self._max_bytes = max_bytes
        self._is_writable = True
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / _LOCK_NAME).touch()
        except OSError as error:
            raise ValueError(f"{folder}: cannot be used as a cache: {error.strerror}") from error

    def read(self, name: str) -> bytes | None:
        """Return cached bytes and mark them as used now; None if they are not cached."""
        path = self._folder / name
        try:
            data = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        return data

    def drop(self, name: str) -> None:
        """Remove bytes that turned out to be wrong."""
        try:
            with self._locked() as total, contextlib.suppress(FileNotFoundError):
                num_bytes = (self._folder / name).stat().st_size
                (self._folder / name).unlink()
                total.set(total.get() - num_bytes)
        except OSError as error:
            self._stop_writing(error)

    def write(self, name: str, data: bytes) -> None:
        """Add bytes, removing others to make room. Bytes larger than the whole cache are not added."""
        if len(data) > self._max_bytes or not self._is_writable:
            return
        try:
            with self._locked() as total:
                self._write(name, data, total)
        except OSError as error:
            self._stop_writing(error)

    def _stop_writing(self, error: OSError) -> None:
        self._is_writable = False
        warnings.warn(f"{self._folder}: no more blocks are cached: {error.strerror}", stacklevel=3)

    def _write(self, name: str, data: bytes, total: "_Total") -> None:
        if (self._folder / name).exists():
            return
        num_bytes = total.get()
        if num_bytes + len(data) > self._max_bytes:
            num_bytes = self._make_room(len(data))
        # Counted first: if killed in between, the sum is too high until `_make_room` computes it again.
        total.set(num_bytes + len(data))
        partial = self._folder / f"{name}.partial"
        partial.write_bytes(data)
        partial.rename(self._folder / name)

    def _make_room(self, num_bytes: int) -> int:
        """Remove leftovers of killed writers and the least recently used files; return the sum of sizes of the rest."""
        files = [(entry.stat(), entry) for entry in os.scandir(self._folder) if entry.name != _LOCK_NAME]
        files.sort(key=lambda item: (not item[1].name.endswith(".partial"), item[0].st_mtime_ns))
        total = sum(status.st_size for status, _ in files)
        most = min(int(_KEPT_SHARE * self._max_bytes), self._max_bytes - num_bytes)
        for status, entry in files:
            if total <= most and not entry.name.endswith(".partial"):
                break
            Path(entry).unlink()
            total -= status.st_size
        return total

    @contextlib.contextmanager
    def _locked(self) -> Iterator["_Total"]:
        with (self._folder / _LOCK_NAME).open("r+") as file:
            _lock(file.fileno())
            yield _Total(file.fileno())


def _lock(descriptor: int) -> None:
    """Take the lock. Raise TimeoutError if another process holds it for too long."""
    end = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                reason = f"another process holds its lock for more than {_LOCK_SECONDS:g} s"
                raise TimeoutError(errno.ETIMEDOUT, reason) from None
        time.sleep(0.002)


class _Total:
    """The sum of sizes, stored in the lock file."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def get(self) -> int:
        return int(os.pread(self._descriptor, 32, 0) or 0)

    def set(self, num_bytes: int) -> None:
        os.pwrite(self._descriptor, b"%-32d" % num_bytes, 0)
