"""A teacher's vectors of texts, kept in a folder: float16, of unit length, a file for each block of a corpus.

A file is a NumPy array [rows, D], which `numpy.load` reads, and after it the 16 bytes of its XXH3-128. Rows whose
vector was never asked for are NaN.
"""

import io
import json
import warnings
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import xxhash
from torch import Tensor

from pretrain.durable import write_durably, writing

_OPEN_BLOCKS = 1 << 14
_DIGEST_BYTES = 16
_NAME = "vectors.json"


class StoredVectors:
    """The vectors of one teacher for the rows of one corpus.

    Args:
        root: holds a folder for every identity.
        identity: everything that decides the vectors; JSON values.
        width: D.
    """

    def __init__(self, root: Path, identity: Mapping[str, object], width: int) -> None:
        self.identity, self.width = json.loads(json.dumps(identity)), width
        text = json.dumps(self.identity, sort_keys=True)
        self.folder = root / xxhash.xxh3_128_hexdigest(text.encode())[:16]
        self._open = lru_cache(_OPEN_BLOCKS)(self._map)

    def create(self) -> None:
        """Make the folder. Raise ValueError if it has vectors of another teacher, corpus or the like."""
        path = self.folder / _NAME
        if not path.is_file():
            with writing(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
            write_durably(path, json.dumps(self.identity, indent=2))
            return
        try:
            found = json.loads(path.read_bytes())
            differing = [key for key, value in self.identity.items() if found.get(key) != value]
        except (ValueError, AttributeError) as error:
            raise ValueError(
                f"{path}: damaged: {error}; delete {self.folder}, and its vectors are made again"
            ) from None
        if differing:
            raise ValueError(f"{path}: these are vectors of another {', '.join(differing)}; give another folder")

    def read(self, block: int, num_rows: int) -> np.ndarray:
        """Return the vectors of a block [rows, D], NaN where there are none. Warn of a file that is damaged."""
        path = self._path(block)
        if path.is_file():
            data = path.read_bytes()
            body = data[:-_DIGEST_BYTES]
            if xxhash.xxh3_128_digest(body) == data[-_DIGEST_BYTES:]:
                vectors = np.load(io.BytesIO(body), allow_pickle=False)
                if vectors.shape == (num_rows, self.width) and vectors.dtype == np.float16:
                    return np.array(vectors)
            warnings.warn(f"{path}: the checksum or size does not match; its vectors are made again", stacklevel=2)
        return np.full((num_rows, self.width), np.nan, dtype=np.float16)

    def write(self, block: int, vectors: np.ndarray) -> None:
        """Replace the vectors of a block [rows, D] at once: readers see the old ones or the new."""
        file = io.BytesIO()
        np.save(file, vectors.astype(np.float16), allow_pickle=False)
        body = file.getvalue()
        write_durably(self._path(block), body + xxhash.xxh3_128_digest(body))

    def take(self, blocks: Tensor, rows: Tensor) -> Tensor:
        """Return the vectors [B, D] of rows int64 [B] of blocks int64 [B], NaN where there are none."""
        taken = np.full((len(rows), self.width), np.nan, dtype=np.float16)
        for block in blocks.unique().tolist():
            here = (blocks == block).numpy()
            if (vectors := self._open(block)) is not None:
                taken[here] = vectors[rows.numpy()[here]]
        return torch.from_numpy(taken)

    def _map(self, block: int) -> np.ndarray | None:
        path = self._path(block)
        return np.load(path, mmap_mode="r", allow_pickle=False) if path.is_file() else None

    def _path(self, block: int) -> Path:
        return self.folder / f"{block:06d}.npy"
