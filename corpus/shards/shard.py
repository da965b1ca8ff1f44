"""Shards: files of concatenated blocks, of bounded size. Written, read and verified here."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TypeVar

import numpy as np

from corpus.progress import track
from corpus.shards import block
from corpus.shards.manifest import FILE_NAME, BlockTable, Manifest, ShardRecord
from corpus.shards.store import StoreLost

_Read = TypeVar("_Read")
MAX_SHARD_BYTES = 64 << 20


class DamagedBlock(ValueError):
    """The bytes of a block are lost or changed, although its store can be read."""


class ShardWriter:
    """Writes frames to shard-00000.bin, shard-00001.bin, ... in a folder, and syncs them."""

    def __init__(self, folder: Path) -> None:
        self.shards: list[ShardRecord] = []
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._num_bytes = 0

    def write(self, frame: bytes) -> tuple[int, int]:
        """Append a frame; return the index of its shard and its offset in bytes."""
        if self._file and self._num_bytes + len(frame) > MAX_SHARD_BYTES:
            self.close()
        if self._file is None:
            self._file = (self._folder / self._name).open("xb")
        offset = self._num_bytes
        self._file.write(frame)
        self._num_bytes += len(frame)
        return len(self.shards), offset

    @property
    def _name(self) -> str:
        return f"shard-{len(self.shards):05d}.bin"

    def close(self) -> None:
        """Sync and record the open shard, if there is one."""
        if self._file is None:
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self.shards.append(ShardRecord(name=self._name, num_bytes=self._num_bytes))
        self._file, self._num_bytes = None, 0


def shard_path(manifest: Manifest, index: int) -> str:
    """Return the path of a block's shard, for messages."""
    return f"{manifest.store.location}/{manifest.shards[manifest.blocks.shard[index]].name}"


def read_block(manifest: Manifest, index: int) -> block.Block:
    """Read and decode the block of an index, and verify its checksum.

    Raises DamagedBlock, naming shard and block, for a missing or truncated shard and for any changed bit. Raises
    StoreLost if the store cannot be read (a remote one after several attempts) or nothing of it is left.
    """
    table = manifest.blocks
    name = manifest.shards[table.shard[index]].name
    try:
        frame = manifest.store.read_block(name, table.offset[index], table.length[index], table.hash[index])
        return block.unpack(
            frame, manifest.dtype, table.tokens[index], table.documents[index], manifest.has_word_planes
        )
    except FileNotFoundError as error:
        kind = DamagedBlock if _has_manifest(manifest) else StoreLost
        raise kind(f"{shard_path(manifest, index)}: block {index}: the shard is missing") from error
    except ValueError as error:
        raise DamagedBlock(f"{shard_path(manifest, index)}: block {index}: {error}") from error
    except OSError as error:
        raise StoreLost(f"{shard_path(manifest, index)}: block {index}: {error}") from error


def _has_manifest(manifest: Manifest) -> bool:
    """Whether the store still has its manifest; if not, all is gone, as with an unmounted disk."""
    try:
        return manifest.store.size(FILE_NAME) is not None
    except OSError:
        return False


def read_blocks(manifest: Manifest, indices: list[int]) -> Iterator[block.Block]:
    """Yield blocks in the order of `indices`, fetching remote ones in parallel. Raise what `read_block` raises."""
    return _read_in_parallel(manifest, indices, read_block)


def read_sound_blocks(manifest: Manifest, indices: list[int]) -> Iterator[block.Block | DamagedBlock]:
    """Yield blocks as `read_blocks` does, and the error in place of a damaged one. Raise StoreLost only."""

    def read(manifest: Manifest, index: int) -> block.Block | DamagedBlock:
        try:
            return read_block(manifest, index)
        except DamagedBlock as damaged:
            return damaged

    return _read_in_parallel(manifest, indices, read)


def _read_in_parallel(
    manifest: Manifest, indices: list[int], read: Callable[[Manifest, int], _Read]
) -> Iterator[_Read]:
    if manifest.store.num_readers == 1 or len(indices) == 1:
        yield from (read(manifest, index) for index in indices)
        return
    pool = ThreadPoolExecutor(manifest.store.num_readers, thread_name_prefix="block-reader")
    try:
        yield from pool.map(lambda index: read(manifest, index), indices)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def verify(manifest: Manifest) -> list[str]:
    """Reread every block and return the faults found, each naming shard and block; none for an intact corpus."""
    faults = []
    for index in track(range(len(manifest.blocks)), "verifying", len(manifest.blocks), "blocks"):
        try:
            ids = read_block(manifest, index).ids
        except ValueError as error:
            faults.append(str(error))
            continue
        if int(ids.max()) >= manifest.tokenizer.vocab_size:
            faults.append(f"{shard_path(manifest, index)}: block {index}: an id is outside the vocabulary")
    return faults


class BlockWriter:
    """Writes documents as blocks into shards of a folder, and builds the block table."""

    def __init__(self, folder: Path) -> None:
        self._shards = ShardWriter(folder)
        self._columns: dict[str, list] = {name: [] for name in BlockTable.model_fields}
        self._pending: list[np.ndarray] = []
        self._planes: list[np.ndarray] = []
        self._num_bytes = 0

    def write(self, ids: np.ndarray, continues_word: np.ndarray | None = None) -> None:
        """Add a document: its ids [tokens] and, in a corpus with word planes, its plane, bool [tokens]."""
        self._pending.append(ids)
        if continues_word is not None:
            self._planes.append(continues_word)
        self._num_bytes += ids.nbytes
        if self._num_bytes >= block.TARGET_BYTES:
            self._write_block()

    def _write_block(self) -> None:
        frame = block.pack(self._pending, self._planes or None)
        shard, offset = self._shards.write(frame)
        num_tokens = sum(map(len, self._pending))
        row = (0, shard, offset, len(frame), num_tokens, len(self._pending), block.checksum(frame))
        for column, value in zip(self._columns.values(), row, strict=True):
            column.append(value)
        self._pending, self._planes, self._num_bytes = [], [], 0

    def close(self) -> tuple[list[ShardRecord], BlockTable]:
        """Write the last block, sync the shards, and return their records and the block table."""
        if self._pending:
            self._write_block()
        self._shards.close()
        return self._shards.shards, BlockTable(**self._columns)


def count_corpus_pieces(manifest: Manifest) -> np.ndarray:
    """Return how often each piece of the tokenizer occurs in the corpus, int64 [V]. Reads every block."""
    counts = np.zeros(manifest.tokenizer.vocab_size, dtype=np.int64)
    for index in track(range(len(manifest.blocks)), "counting pieces", len(manifest.blocks), "blocks"):
        counts += np.bincount(read_block(manifest, index)[0], minlength=len(counts))
    return counts
