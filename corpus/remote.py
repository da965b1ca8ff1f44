"""Remote files read by byte ranges, with retries for requests that fail, hang or return too little."""

import io
import time
from collections.abc import Callable
from typing import IO, Any, cast

import fsspec
from fsspec.asyn import sync

_RANGE_BYTES = 4 << 20
_WAITS_SECONDS = (0.5, 1.0, 2.0, 4.0)  # between attempts
_TIMEOUT_SECONDS = 30.0  # of each attempt


def open_remote(url: str) -> IO[bytes]:
    """Open a URL for reading bytes. Opening and reading raise OSError when the last retry has failed."""
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


class ChangedBytes(ValueError):
    """The bytes read are not those that were written."""


def call(files: Any, method: str, *arguments: Any, **options: Any) -> Any:
    """Call a method of an fsspec file system. Asynchronous ones raise a timeout after 30 seconds."""
    if files.async_impl:
        coroutine = getattr(files, f"_{method}")
        return sync(files.loop, coroutine, *arguments, timeout=_TIMEOUT_SECONDS, **options)
    return getattr(files, method)(*arguments, **options)


def retry(action: Callable[[], Any]) -> Any:
    """Run `action` up to five times and return its result. With `call`, this takes at most 2 minutes 38 seconds.

    Raises FileNotFoundError and PermissionError at once, ChangedBytes or OSError when the last attempt has failed.
    """
    for wait in (*_WAITS_SECONDS, None):
        try:
            return action()
        except PermissionError:
            raise
        except Exception as error:  # every file system raises its own
            if isinstance(error, FileNotFoundError) and not _may_exist(error):
                raise
            if wait is None:
                attempts = len(_WAITS_SECONDS) + 1
                reason = reason_of(error) or f"no answer within {_TIMEOUT_SECONDS:g} s ({type(error).__name__})"
                kind = ChangedBytes if isinstance(error, ChangedBytes) else OSError
                raise kind(f"gave up after {attempts} attempts; the last: {reason}") from error
            time.sleep(wait)
    raise AssertionError("the last wait is None")


def reason_of(error: Exception) -> str:
    """Return what went wrong: fsspec's http says the address alone, and has the reason as the cause."""
    return str(error.__cause__ if isinstance(error, FileNotFoundError) and error.__cause__ else error)


def _may_exist(error: FileNotFoundError) -> bool:
    """Whether the file may exist: fsspec's http raises this for any failed request for a size, with the cause."""
    cause = error.__cause__
    of_http = isinstance(cause, TimeoutError) or type(cause).__module__.startswith("aiohttp")
    return of_http and getattr(cause, "status", None) != 404
