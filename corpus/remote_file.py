"""A file behind a URL as a file: read by ranges, and what fails, hangs or comes cut short is asked for again."""

import io
from typing import IO, cast

import fsspec

from corpus.store import call, retry

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
