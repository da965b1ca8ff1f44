"""A block: the token ids of whole documents as one compressed frame, decodable by itself.

Before compression, little-endian: uint32 number of documents N; uint32 tokens of each [N]; the ids of all documents
in the corpus's dtype; and, in a corpus with word planes, one bit a token, lowest bit first: whether the token continues
the word of the token before it. Compressed to one zstd frame of level 3, whose XXH3-64 is in the manifest.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import xxhash
import zstandard

TARGET_BYTES = 256 << 10  # of ids, before compression


class Block(NamedTuple):
    """The decoded documents of a block, concatenated."""

    ids: np.ndarray  # [tokens]
    lengths: np.ndarray  # [documents] tokens of each, int64
    continues_word: np.ndarray | None = None  # [tokens] bool, if the corpus has word planes


def pack(documents: Sequence[np.ndarray], continues_word: Sequence[np.ndarray] | None = None) -> bytes:
    """Compress documents to a frame: their ids, arrays of one dtype, and their word planes, bool, if given."""
    lengths = np.array([len(documents), *map(len, documents)], dtype="<u4")
    ids = np.concatenate(documents)
    raw = lengths.tobytes() + ids.astype(ids.dtype.newbyteorder("<")).tobytes()
    if continues_word is not None:
        raw += np.packbits(np.concatenate(continues_word), bitorder="little").tobytes()
    return zstandard.ZstdCompressor(level=3).compress(raw)


def checksum(frame: bytes) -> str:
    """Return the XXH3-64 of a frame, in hexadecimal."""
    return xxhash.xxh3_64_hexdigest(frame)


def unpack(frame: bytes, dtype: np.dtype, num_tokens: int, num_documents: int, has_word_planes: bool = False) -> Block:
    """Decode a frame. Raise ValueError if it does not hold exactly the tokens and documents that were expected."""
    num_plane_bytes = -(-num_tokens // 8) if has_word_planes else 0
    num_bytes = 4 + 4 * num_documents + dtype.itemsize * num_tokens + num_plane_bytes
    try:
        if zstandard.frame_content_size(frame) != num_bytes:
            raise ValueError("the frame's size is not that of its documents and tokens")
        raw = zstandard.ZstdDecompressor().decompress(frame)
    except zstandard.ZstdError as error:
        raise ValueError(f"the frame cannot be decompressed: {error}") from error
    header = np.frombuffer(raw, dtype="<u4", count=1 + num_documents)
    lengths = header[1:].astype(np.int64)
    if header[0] != num_documents or lengths.sum() != num_tokens:
        raise ValueError("the header does not match the documents and tokens in the manifest")
    ids = np.frombuffer(raw, dtype=dtype.newbyteorder("<"), count=num_tokens, offset=header.nbytes)
    plane = None
    if has_word_planes:
        bits = np.frombuffer(raw, dtype=np.uint8, offset=header.nbytes + ids.nbytes)
        plane = np.unpackbits(bits, count=num_tokens, bitorder="little").astype(bool)
    return Block(ids.astype(dtype, copy=False), lengths, plane)
