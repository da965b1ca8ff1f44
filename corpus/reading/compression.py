"""Compressed streams (.gz, .xz, .bz2, .zst), inflated piece by piece, with a limit on how far they may expand.

The end of a stream is checked here, because the libraries' own readers accept truncated streams.
"""

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

import zstandard

from corpus.reading.bad_input import Damaged

# Small: decompressors return all that a piece of input inflates to at once, at worst 32,000 times as much.
CHUNK_BYTES = 4 << 10
# Text compresses to a fiftieth at the very best; what expands further than this was made to fill a machine.
MAX_RATIO = 200
FREE_BYTES = 64 << 20  # allowed whatever the ratio
_MAX_MEMORY_BYTES = 512 << 20

_DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    ".gz": lambda: zlib.decompressobj(wbits=31),
    ".xz": lambda: lzma.LZMADecompressor(memlimit=_MAX_MEMORY_BYTES),
    ".bz2": bz2.BZ2Decompressor,
    ".zst": lambda: zstandard.ZstdDecompressor(max_window_size=_MAX_MEMORY_BYTES).decompressobj(),
}
INFLATE_ERRORS = (EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError)


def is_compressed(name: str) -> bool:
    """Whether a name has the suffix of a compressed stream."""
    return PurePosixPath(name).suffix.lower() in _DECOMPRESSORS


def is_bomb(num_bytes: int, num_stored_bytes: int) -> bool:
    """Whether `num_stored_bytes` inflated to more bytes than any text would."""
    return num_bytes > max(FREE_BYTES, MAX_RATIO * num_stored_bytes)


def inflate(chunks: Iterable[bytes], name: str) -> Iterator[bytes]:
    """Inflate all frames of a stream, compressed as the suffix of `name` says.

    Raises EOFError for a truncated stream, another of INFLATE_ERRORS for a damaged one, and Damaged for one that
    expands too far.
    """
    new_decompressor = _DECOMPRESSORS[PurePosixPath(name).suffix.lower()]
    # Zeros after a frame are padding (tar, tapes); no frame begins with a zero.
    frame, is_begun = None, False
    num_stored_bytes = num_bytes = 0
    for chunk in chunks:
        num_stored_bytes += len(chunk)
        while chunk := chunk.lstrip(b"\0") if is_begun and not frame else chunk:
            frame, is_begun = frame or new_decompressor(), True
            try:
                data = frame.decompress(chunk)
            except OSError as error:  # bz2's error for damage, which is not one of the disk
                raise zlib.error(str(error)) from error
            if data:
                num_bytes += len(data)
                if is_bomb(num_bytes, num_stored_bytes):
                    raise Damaged(name, f"inflates to more than {MAX_RATIO} times its size; no text does")
                yield data
            chunk = frame.unused_data if frame.eof else b""
            frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError("the compressed stream is truncated")
