"""Where a corpus lies: a folder, or a URL that fsspec reads (s3, http, memory, ...), block by block."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import fsspec

from corpus.remote import ChangedBytes, call, retry
from corpus.shards.block import checksum
from corpus.shards.block_cache import BlockCache


class StoreLost(ValueError):
    """A store that cannot be read now; another time it may be."""


class Store(Protocol):
    """Files of one corpus. `read_block` raises ChangedBytes, FileNotFoundError or OSError; bytes it gives are sound."""

    @property
    def location(self) -> str: ...

    @property
    def num_readers(self) -> int:
        """Threads that reading gains from."""

    def size(self, name: str) -> int | None:
        """Bytes of a file; None if it is not there."""

    def listed_sizes(self) -> dict[str, int]:
        """Bytes of files, as far as one listing tells them; what is not in it may be there all the same."""

    def read_file(self, name: str) -> bytes: ...

    def read_block(self, name: str, offset: int, num_bytes: int, digest: str) -> bytes: ...


@dataclass(frozen=True)
class LocalStore:
    """A folder."""

    folder: Path

    @property
    def location(self) -> str:
        return str(self.folder)

    @property
    def num_readers(self) -> int:
        return 1

    def size(self, name: str) -> int | None:
        path = self.folder / name
        return path.stat().st_size if path.is_file() else None

    def listed_sizes(self) -> dict[str, int]:
        return {}  # asking for each costs nothing

    def read_file(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def read_block(self, name: str, offset: int, num_bytes: int, digest: str) -> bytes:
        with (self.folder / name).open("rb") as file:
            file.seek(offset)
            data = file.read(num_bytes)
        return _checked(data, num_bytes, digest, "the shard ends before the block does")


def open_store(location: str | Path, cache: BlockCache | None = None) -> Store:
    """The store of a folder or URL; only what is remote is cached."""
    return RemoteStore(str(location), cache) if "://" in str(location) else LocalStore(Path(location))


class RemoteStore:
    """A folder behind a URL. What fails, hangs, is cut short or arrives changed is asked for again, a few times."""

    num_readers = 16

    def __init__(self, url: str, cache: BlockCache | None = None) -> None:
        self.location = url.rstrip("/")
        self._cache = cache
        try:
            self._files, self._root = fsspec.core.url_to_fs(self.location)
        except (ImportError, ValueError) as error:
            raise ValueError(f"{url}: cannot be read: {error}") from error

    def size(self, name: str) -> int | None:
        try:
            size = retry(lambda: call(self._files, "info", f"{self._root}/{name}")["size"])
        except FileNotFoundError:
            return None
        if size is None:
            raise OSError("the server does not tell the size of a file, so it cannot serve parts of one")
        return size

    def listed_sizes(self) -> dict[str, int]:
        """A thousand files a request on S3, where a job of a thousand ranks would ask for each file a thousand times.

        Nothing where no listing comes: http has none, and a bucket may be one that can be read but not listed.
        """
        if {"http", "https"} & {*_names(self._files.protocol)}:
            return {}
        try:
            entries = call(self._files, "ls", self._root, detail=True)
        except Exception:  # every file system raises its own; whoever asks for a file hears of what is wrong
            return {}
        finally:
            self._files.invalidate_cache()  # or it would answer from the listing when a file is gone
        return {entry["name"].rpartition("/")[2]: entry["size"] for entry in entries if entry["type"] == "file"}

    def read_file(self, name: str) -> bytes:
        return retry(lambda: call(self._files, "cat_file", f"{self._root}/{name}"))

    def read_block(self, name: str, offset: int, num_bytes: int, digest: str) -> bytes:
        cache_name = f"{digest}-{num_bytes}"
        if self._cache and (data := self._cache.read(cache_name)) is not None:
            if checksum(data) == digest:
                return data
            self._cache.drop(cache_name)  # a disk forgets too; the corpus itself may still be sound

        def fetch() -> bytes:
            data = call(self._files, "cat_file", f"{self._root}/{name}", start=offset, end=offset + num_bytes)
            return _checked(data, num_bytes, digest, f"{len(data)} bytes came, not the {num_bytes} asked for")

        data = retry(fetch)
        if self._cache:
            self._cache.write(cache_name, data)
        return data


def _names(protocol: str | tuple[str, ...]) -> tuple[str, ...]:
    return (protocol,) if isinstance(protocol, str) else protocol


def _checked(data: bytes, num_bytes: int, digest: str, if_short: str) -> bytes:
    if len(data) != num_bytes:
        raise ChangedBytes(if_short)
    if checksum(data) != digest:
        raise ChangedBytes("the checksum does not match: the bytes have changed since they were written")
    return data
