"""A file behind a URL as a file: read by ranges, and what fails, hangs or comes cut short is asked for again."""

import io
import time
from collections.abc import Callable
from typing import IO, Any, cast

import fsspec
from fsspec.asyn import sync

_RANGE_BYTES = 4 << 20


def open_remote(url: str) -> IO[bytes]:
    """Opened for reading bytes. What it reads raises OSError when the last attempt has failed."""
    return cast(IO[bytes], io.BufferedReader(_RemoteFile(url), _RANGE_BYTES))


class _RemoteFile(io.RawIOBase):
    def __init__(self, url: str) -> None:
        self._files, self._path = fsspec.core.url_to_fs(url)
        self._num_bytes = retry(lambda: call(self._files, "info", self._path))["size"]
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._num_bytes}[whence]
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        start = self._position
        end = min(start + len(buffer), self._num_bytes)
        if end <= start:
            return 0

        def fetch() -> bytes:
            data = call(self._files, "cat_file", self._path, start=start, end=end)
            if len(data) != end - start:
                raise OSError(f"{len(data)} bytes came, not the {end - start} asked for")
            return data

        buffer[: end - start] = retry(fetch)
        self._position = end
        return end - start


_WAITS_SECONDS = (0.5, 1.0, 2.0, 4.0)


_TIMEOUT_SECONDS = 30.0


class ChangedBytes(ValueError):
    """What came is not what was written."""


def call(files: Any, method: str, *arguments: Any, **options: Any) -> Any:
    """A method of a file system, given up when it hangs."""
    if files.async_impl:
        coroutine = getattr(files, f"_{method}")
        return sync(files.loop, coroutine, *arguments, timeout=_TIMEOUT_SECONDS, **options)
    return getattr(files, method)(*arguments, **options)


def retry(action: Callable[[], Any]) -> Any:
    """What the action gives; FileNotFoundError at once; OSError, or ChangedBytes, when the last attempt has failed.

    With the time that `call` allows each attempt that is 2 minutes and 38 seconds at most.
    """
    for wait in (*_WAITS_SECONDS, None):
        try:
            return action()
        except PermissionError:
            raise
        except Exception as error:  # every file system raises its own
            if isinstance(error, FileNotFoundError) and not _hides_a_failure(error):
                raise
            if wait is None:
                attempts = len(_WAITS_SECONDS) + 1
                reason = str(error) or f"no answer within {_TIMEOUT_SECONDS:g} s ({type(error).__name__})"
                kind = ChangedBytes if isinstance(error, ChangedBytes) else OSError
                raise kind(f"gave up after {attempts} attempts; the last: {reason}") from error
            time.sleep(wait)
    raise AssertionError("the last wait is None")


def _hides_a_failure(error: FileNotFoundError) -> bool:
    """fsspec's http says "not found" for any failed request for a size; the cause tells which."""
    cause = error.__cause__
    of_http = isinstance(cause, TimeoutError) or type(cause).__module__.startswith("aiohttp")
    return of_http and getattr(cause, "status", None) != 404
