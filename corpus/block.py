"""A block: the token ids of whole documents, packed, compressed and decodable alone.

Before compression, little-endian: uint32 number of documents N, uint32 tokens of each [N], then the ids one
after another in the corpus's dtype. One zstd frame of level 3 holds it; its XXH3-64 stands in the manifest.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xxhash
import zstandard

TARGET_BYTES = 256 << 10
MIN_ROW_TOKENS = 8


def pack(documents: Sequence[np.ndarray]) -> bytes:
    """A compressed frame of documents' ids, all of one dtype."""
    lengths = np.array([len(documents), *map(len, documents)], dtype="<u4")
    ids = np.concatenate(documents)
    raw = lengths.tobytes() + ids.astype(ids.dtype.newbyteorder("<")).tobytes()
    return zstandard.ZstdCompressor(level=3).compress(raw)


def checksum(frame: bytes) -> str:
    return xxhash.xxh3_64_hexdigest(frame)


def unpack(frame: bytes, dtype: np.dtype, num_tokens: int, num_documents: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids [tokens] and documents' lengths [documents] of a frame; ValueError if it is not what was told."""
    num_bytes = 4 + 4 * num_documents + dtype.itemsize * num_tokens
    try:
        if zstandard.frame_content_size(frame) != num_bytes:
            raise ValueError("the frame's size is not that of its documents and tokens")
        raw = zstandard.ZstdDecompressor().decompress(frame)
    except zstandard.ZstdError as error:
        raise ValueError(f"the frame cannot be decompressed: {error}") from error
    header = np.frombuffer(raw, dtype="<u4", count=1 + num_documents)
    lengths = header[1:].astype(np.int64)
    if header[0] != num_documents or lengths.sum() != num_tokens:
        raise ValueError("the header does not hold the documents and tokens that the manifest tells")
    ids = np.frombuffer(raw, dtype=dtype.newbyteorder("<"), offset=header.nbytes)
    return ids.astype(dtype, copy=False), lengths


def num_rows(num_tokens: Any, num_documents: Any, row_tokens: int) -> Any:
    """Rows of `row_tokens` that a block gives, for scalars and arrays alike.

    A block's tokens with a SEP between documents are cut in pieces that leave room for CLS and SEP.
    """
    if row_tokens < MIN_ROW_TOKENS:
        raise ValueError(f"row_tokens is {row_tokens}, but must be at least {MIN_ROW_TOKENS}")
    return -((num_tokens + num_documents - 1) // -(row_tokens - 2))


def build_rows(
    ids: np.ndarray, lengths: np.ndarray, row_tokens: int, cls_id: int, sep_id: int, pad_id: int
) -> np.ndarray:
    """Rows [rows, L] of a block: `CLS piece SEP`, the last one padded. No token is dropped or repeated."""
    stream = np.insert(ids, np.cumsum(lengths)[:-1], sep_id)
    count = num_rows(len(ids), len(lengths), row_tokens)
    pieces = np.full(count * (row_tokens - 2), pad_id, dtype=ids.dtype)
    pieces[: len(stream)] = stream
    rows = np.empty((count, row_tokens), dtype=ids.dtype)
    rows[:, 0] = cls_id
    rows[:, 1:-1] = pieces.reshape(count, -1)
    rows[:, -1] = sep_id
    num_padding = len(pieces) - len(stream)
    if num_padding:
        rows[-1, -1] = pad_id
        rows[-1, -1 - num_padding] = sep_id
    return rows
