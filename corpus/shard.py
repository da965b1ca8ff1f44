"""Shards: files of blocks one after another, of bounded size, synced before the manifest tells of them."""

import os
from pathlib import Path
from typing import IO

import numpy as np
from tqdm import tqdm

from corpus import block
from corpus.manifest import Manifest, ShardRecord

MAX_SHARD_BYTES = 64 << 20


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


def read_block(manifest: Manifest, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids [tokens] and documents' lengths [documents] of one block, its checksum verified.

    Raises ValueError naming the shard and the block for a missing or short shard and for one changed bit.
    """
    table = manifest.blocks
    path = manifest.folder / manifest.shards[table.shard[index]].name
    try:
        with path.open("rb") as file:
            file.seek(table.offset[index])
            frame = file.read(table.length[index])
        if len(frame) != table.length[index]:
            raise ValueError("the shard ends before the block does")
        if block.checksum(frame) != table.hash[index]:
            raise ValueError("the checksum does not match: the bytes have changed since they were written")
        return block.unpack(frame, manifest.dtype, table.tokens[index], table.documents[index])
    except FileNotFoundError as error:
        raise ValueError(f"{path}: block {index}: the shard is missing") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: block {index}: {error}") from error


def verify(manifest: Manifest) -> list[str]:
    """Rereads every block; the faults found, each naming shard and block. Empty for a sound corpus."""
    faults = []
    for index in tqdm(range(len(manifest.blocks)), desc="verifying", unit=" blocks", disable=None):
        try:
            ids, _ = read_block(manifest, index)
        except ValueError as error:
            faults.append(str(error))
            continue
        if int(ids.max()) >= manifest.tokenizer.vocab_size:
            shard = manifest.folder / manifest.shards[manifest.blocks.shard[index]].name
            faults.append(f"{shard}: block {index}: an id lies outside the vocabulary")
    return faults
