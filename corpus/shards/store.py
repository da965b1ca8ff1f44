"""The storage of a corpus: a folder, or a URL that fsspec reads (s3, http, memory, ...)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import fsspec

from corpus.remote import ChangedBytes, call, retry
from corpus.shards.block import checksum
from corpus.shards.block_cache import BlockCache


class StoreLost(ValueError):
    """A store cannot be read now; a later attempt may succeed."""


class Store(Protocol):
    """The files of one corpus."""

    @property
    def location(self) -> str:
        """The folder or URL."""

    @property
    def num_readers(self) -> int:
        """How many threads speed up reading."""

    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes; None if it does not exist. Raise OSError if that cannot be known."""

    def listed_sizes(self) -> dict[str, int]:
        """Return the sizes of files from one listing, in bytes. Files that are not listed may exist too."""

    def read_file(self, name: str) -> bytes:
        """Return the bytes of a file. Raise FileNotFoundError or OSError."""

    def read_block(self, name: str, offset: int, num_bytes: int, digest: str) -> bytes:
        """Return a range of a file's bytes, whose XXH3-64 must be `digest`.

        Raises ChangedBytes for other bytes, FileNotFoundError if the file does not exist, OSError if it cannot be read.
        """


@dataclass(frozen=True)
class LocalStore:
    """A corpus in a local folder; methods as in `Store`."""

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
        return {}  # asking for each file costs nothing

    def read_file(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def read_block(self, name: str, offset: int, num_bytes: int, digest: str) -> bytes:
        with (self.folder / name).open("rb") as file:
            file.seek(offset)
            data = file.read(num_bytes)
        return _checked(data, num_bytes, digest, "the shard ends before the block does")


def open_store(location: str | Path, cache: BlockCache | None = None) -> Store:
    """Return the store of a folder or URL. The cache is used for URLs only."""
    return RemoteStore(str(location), cache) if "://" in str(location) else LocalStore(Path(location))


class RemoteStore:
    """A corpus at a URL; methods as in `Store`. Requests that fail, hang or return wrong bytes are repeated."""

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
            raise OSError("the server does not report the size of a file, so it cannot serve parts of one")
        return size

    def listed_sizes(self) -> dict[str, int]:
        """On S3 one request lists a thousand files; without it, a thousand ranks would ask for each file.

        Empty if listing fails: http has no listings, and a bucket may be readable without being listable.
        """
        if {"http", "https"} & {*_names(self._files.protocol)}:
            return {}
        try:
            entries = call(self._files, "ls", self._root, detail=True)
        except Exception:  # every file system raises its own; a real problem shows when a file is read
            return {}
        finally:
            self._files.invalidate_cache()  # or it would answer from the listing after a file is deleted
        return {entry["name"].rpartition("/")[2]: entry["size"] for entry in entries if entry["type"] == "file"}

    def read_file(self, name: str) -> bytes:
        return retry(lambda: call(self._files, "cat_file", f"{self._root}/{name}"))

    def read_block(self, name: str, offset: int, num_bytes: int, digest: str) -> bytes:
        cache_name = f"{digest}-{num_bytes}"
        if self._cache and (data := self._cache.read(cache_name)) is not None:
            if checksum(data) == digest:
                return data
            self._cache.drop(cache_name)  # the disk changed it; the corpus itself may be intact

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
