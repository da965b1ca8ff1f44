"""A tiny `E5S1` file and wheels around it, for the tests of the demo's parts."""

import struct
import zipfile
from pathlib import Path

import numpy as np

HIDDEN, LAYERS, HEADS, INNER, POSITIONS, TYPES = 32, 2, 4, 64, 40, 2
LOWEST = -12.0  # the score of a single character, as in the real file
PIECES = [
    "<s>",
    "<pad>",
    "</s>",
    "<unk>",
    "▁",
    "天",
    "地",
    "人",
    "天地",
    "▁天地",
    "地人",
    "ab",
    "a",
    "b",
    ":",
    "<mask>",
]
SCORES = [0, 0, 0, 0, -2, -5, -5, -5, -6, -7, -6.5, -8, LOWEST, -9, -9, 0]
VOCAB = len(PIECES) + 3  # the real file has rows beyond its pieces too
SHAPE = (HIDDEN, LAYERS, HEADS, INNER, VOCAB, POSITIONS, TYPES)


def array_shapes() -> dict[str, tuple[int, ...]]:
    """Every array of the file, in order; two-dimensional ones that are not positions or types are 4-bit."""
    shapes: dict[str, tuple[int, ...]] = {"emb.word": (VOCAB, HIDDEN), "emb.pos": (POSITIONS, HIDDEN)}
    shapes |= {"emb.type": (TYPES, HIDDEN), "emb.ln.w": (HIDDEN,), "emb.ln.b": (HIDDEN,)}
    for layer in range(LAYERS):
        for short in ("q", "k", "v", "ao", "fi", "fo"):
            rows, columns = {"fi": (INNER, HIDDEN), "fo": (HIDDEN, INNER)}.get(short, (HIDDEN, HIDDEN))
            shapes |= {f"l{layer}.{short}.w": (rows, columns), f"l{layer}.{short}.b": (rows,)}
        shapes |= {f"l{layer}.{short}.{part}": (HIDDEN,) for short in ("aln", "oln") for part in "wb"}
    return shapes


def is_four_bit(name: str) -> bool:
    """Whether the file keeps the array in 4 bits."""
    return name == "emb.word" or name.split(".")[1:] in [[n, "w"] for n in ("q", "k", "v", "ao", "fi", "fo")]


def build_arrays(seed: int = 0) -> tuple[dict[str, bytes], dict[str, np.ndarray]]:
    """(bytes as stored, values as they must be read) of every array, packed weight by weight."""
    generator = np.random.default_rng(seed)
    stored, values = {}, {}
    for name, shape in array_shapes().items():
        if not is_four_bit(name):
            values[name] = generator.normal(0, 0.2, shape).astype("<f4")
            stored[name] = values[name].tobytes()
            continue
        nibbles = generator.integers(0, 16, (int(np.prod(shape)) // 32, 32))
        scales = generator.uniform(0.01, 0.1, len(nibbles)).astype("<f2")
        stored[name] = b"".join(
            scale.tobytes() + bytes(int(row[i]) | int(row[i + 16]) << 4 for i in range(16))
            for scale, row in zip(scales, nibbles, strict=True)
        )
        values[name] = ((nibbles - 8) * scales.astype(np.float32)[:, None]).astype(np.float32).reshape(shape)
    return stored, values


def build_e5(
    *,
    magic: bytes = b"E5S1\x01\x00\x00\x00",
    shape: tuple[int, ...] = SHAPE,
    eps: float = 1e-12,
    block: int = 32,
    pieces: list[str] = PIECES,
    special: tuple[int, ...] = (0, 2, 1, 3),
    offset_shift: int = 0,
    without: str = "",
    entry: dict[str, tuple[int, int, int, int]] | None = None,
) -> bytes:
    """The bytes of a file; each argument breaks it in one way, `entry` by replacing directory entries."""
    encoded = [piece.encode() for piece in pieces]
    blob = b"".join(encoded)
    offsets = np.cumsum([0, *map(len, encoded)]) + offset_shift
    head = magic + struct.pack("<7ifi", *shape, eps, block)
    head += struct.pack("<5iQ", len(pieces), *special, len(blob)) + offsets.astype("<u4").tobytes()
    head += np.asarray(SCORES[: len(pieces)], "<f4").tobytes() + blob + struct.pack("<iI", 1, 5) + b"table"
    stored = {name: data for name, data in build_arrays()[0].items() if name != without}
    directory_size = 4 + sum(2 + len(name) + 21 for name in stored)
    position, directory = len(head) + directory_size, struct.pack("<i", len(stored))
    for name, data in stored.items():
        size = len(data) * 32 // 18 if is_four_bit(name) else len(data) // 4
        fields = (entry or {}).get(name, (int(is_four_bit(name)), size, position, len(data)))
        directory += struct.pack("<H", len(name)) + name.encode() + struct.pack("<BIQQ", *fields)
        position += len(data)
    return head + directory + b"".join(stored.values())


def build_wheel(path: Path, members: dict[str, bytes]) -> Path:
    """A zip archive of these members."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path
