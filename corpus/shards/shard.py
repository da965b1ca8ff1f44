"""Shards: files of blocks one after another, of bounded size, synced before the manifest tells of them."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TypeVar

import numpy as np

from corpus.progress import counted
from corpus.shards import block
from corpus.shards.manifest import FILE_NAME, BlockTable, Manifest, ShardRecord
from corpus.shards.store import StoreLost

_Read = TypeVar("_Read")
MAX_SHARD_BYTES = 64 << 20


class DamagedBlock(ValueError):
    """The bytes of a block are lost or changed; the store that gave them is well."""


class ShardWriter:
    """Appends frames to shard-00000.bin, shard-00001.bin, ... in a folder."""

    def __init__(self, folder: Path) -> None:
        self.shards: list[ShardRecord] = []
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._num_bytes = 0

    def write(self, frame: bytes) -> tuple[int, int]:
        """Where the frame went: the shard's index and the offset in bytes."""
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
        """Syncs and records the open shard, if there is one."""
        if self._file is None:
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self.shards.append(ShardRecord(name=self._name, num_bytes=self._num_bytes))
        self._file, self._num_bytes = None, 0


def shard_path(manifest: Manifest, index: int) -> str:
    """The shard of a block, for messages."""
    return f"{manifest.store.location}/{manifest.shards[manifest.blocks.shard[index]].name}"


def read_block(manifest: Manifest, index: int) -> block.Block:
    """One block, its checksum verified.

    Raises DamagedBlock naming the shard and the block for a missing or short shard and for one changed bit, and
    StoreLost where the store cannot be read: after several attempts where it is remote, and where nothing is there.
    """
    table = manifest.blocks
    name = manifest.shards[table.shard[index]].name
    try:
        frame = manifest.store.read_block(name, table.offset[index], table.length[index], table.hash[index])
        return block.unpack(
            frame, manifest.dtype, table.tokens[index], table.documents[index], manifest.has_word_planes
        )
    except FileNotFoundError as error:
        kind = DamagedBlock if _is_there(manifest) else StoreLost
        raise kind(f"{shard_path(manifest, index)}: block {index}: the shard is missing") from error
    except ValueError as error:
        raise DamagedBlock(f"{shard_path(manifest, index)}: block {index}: {error}") from error
    except OSError as error:
        raise StoreLost(f"{shard_path(manifest, index)}: block {index}: {error}") from error


def _is_there(manifest: Manifest) -> bool:
    """Whether the store still has its manifest: where all is gone, as with a disk that was unmounted, no shard is."""
    try:
        return manifest.store.size(FILE_NAME) is not None
    except OSError:
        return False


def read_blocks(manifest: Manifest, indices: list[int]) -> Iterator[block.Block]:
    """Blocks in the order of indices; those of a remote corpus are fetched side by side."""
    return _read_side_by_side(manifest, indices, read_block)


def read_sound_blocks(manifest: Manifest, indices: list[int]) -> Iterator[block.Block | DamagedBlock]:
    """The same, with what is wrong in place of a block that is damaged; a store that fails is raised all the same."""

    def read(manifest: Manifest, index: int) -> block.Block | DamagedBlock:
        try:
            return read_block(manifest, index)
        except DamagedBlock as damaged:
            return damaged

    return _read_side_by_side(manifest, indices, read)


def _read_side_by_side(
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
    """Rereads every block; the faults found, each naming shard and block. Empty for a sound corpus."""
    faults = []
    for index in counted(range(len(manifest.blocks)), "verifying", len(manifest.blocks), "blocks"):
        try:
            ids = read_block(manifest, index).ids
        except ValueError as error:
            faults.append(str(error))
            continue
        if int(ids.max()) >= manifest.tokenizer.vocab_size:
            faults.append(f"{shard_path(manifest, index)}: block {index}: an id lies outside the vocabulary")
    return faults


class BlockWriter:
    """Collects documents' ids into blocks of shards in a folder, and the table of them."""

    def __init__(self, folder: Path) -> None:
        self._shards = ShardWriter(folder)
        self._columns: dict[str, list] = {name: [] for name in BlockTable.model_fields}
        self._pending: list[np.ndarray] = []
        self._planes: list[np.ndarray] = []
        self._num_bytes = 0

    def write(self, ids: np.ndarray, continues_word: np.ndarray | None = None) -> None:
        """A document, and its word plane in a corpus that has them."""
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
        """Writes what is left and syncs the shards."""
        if self._pending:
            self._write_block()
        self._shards.close()
        return self._shards.shards, BlockTable(**self._columns)


def count_corpus_pieces(manifest: Manifest) -> np.ndarray:
    """How often each piece [V] of the manifest's tokenizer occurs in the corpus."""
    counts = np.zeros(manifest.tokenizer.vocab_size, dtype=np.int64)
    for index in counted(range(len(manifest.blocks)), "counting pieces", len(manifest.blocks), "blocks"):
        counts += np.bincount(read_block(manifest, index)[0], minlength=len(counts))
    return counts
