"""A folder of blocks that were read from afar: bounded, shared by every process of a host, safe to lose."""

import contextlib
import errno
import fcntl
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

_FOLDER_NAME = "blocks"  # what else lies in the folder given is its owner's, and never looked at
_LOCK_NAME = "total_bytes.lock"
_KEPT_SHARE = 0.9
_LOCK_SECONDS = 60.0  # a write takes milliseconds; who holds the lock for longer hangs


class BlockCache:
    """Files named by what identifies their content; together never above `max_bytes`, the longest unused go first.

    They lie in a folder of their own below the one given. A file appears whole, under a lock that also holds the sum
    of sizes, so that no writer needs to list the folder. A cache that cannot be written (a full disk) warns once and
    is read from only.
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
        """The bytes, marked as just used; None if they are not here."""
        path = self._folder / name
        try:
            data = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        return data

    def drop(self, name: str) -> None:
        """Forgets bytes that turned out to be wrong."""
        try:
            with self._locked() as total, contextlib.suppress(FileNotFoundError):
                num_bytes = (self._folder / name).stat().st_size
                (self._folder / name).unlink()
                total.set(total.get() - num_bytes)
        except OSError as error:
            self._stop_writing(error)

    def write(self, name: str, data: bytes) -> None:
        """Keeps the bytes, dropping others for them where needed; more than the whole cache is not kept."""
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
        # Counted first: a process killed in between leaves the sum too high, which the next making room mends.
        total.set(num_bytes + len(data))
        partial = self._folder / f"{name}.partial"
        partial.write_bytes(data)
        partial.rename(self._folder / name)

    def _make_room(self, num_bytes: int) -> int:
        """Drops the longest unused files, and what a killed writer left; the sum of sizes of the rest."""
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
    """Take the lock; TimeoutError where another process does not let go of it."""
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
    """The sum of sizes, in the lock's own file."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def get(self) -> int:
        return int(os.pread(self._descriptor, 32, 0) or 0)

    def set(self, num_bytes: int) -> None:
        os.pwrite(self._descriptor, b"%-32d" % num_bytes, 0)
