"""The documents of a unit between reading and encoding: cleaned texts on disk, and keys to compare them by.

documents.zst holds concatenated zstd frames, each a JSON list of [label, text]. keys.bin holds uint64 columns, one
after another: two for the text's XXH3-128, one for the document's id, then the band keys of its 5-grams if near
duplicates are dropped.
"""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import orjson
import xxhash
import zstandard

DOCUMENTS, KEYS = "documents.zst", "keys.bin"
NUM_HASHES = 3

Frame = tuple[int, int, int]  # offset, bytes, number of documents
Labelled = tuple[str, str]  # label and text of a document

# Frames are small because matching reads single documents; encoding reads many frames at once.
_FRAME_DOCUMENTS = 64
_BATCH_BYTES = 96 << 10


class DocumentWriter:
    """Writes the documents of a unit into a folder; memory does not grow with the unit."""

    def __init__(self, folder: Path) -> None:
        self.frames: list[Frame] = []
        self._folder = folder
        self._compressor = zstandard.ZstdCompressor(level=1)
        self._documents = (folder / DOCUMENTS).open("xb")
        self._rows = (folder / "rows.bin").open("xb")
        self._num_columns = NUM_HASHES

    def write(self, documents: list[Labelled], keys: np.ndarray) -> None:
        """Append a batch of documents with its keys, uint64 [documents, columns]."""
        for start in range(0, len(documents), _FRAME_DOCUMENTS):
            some = documents[start : start + _FRAME_DOCUMENTS]
            frame = self._compressor.compress(orjson.dumps(some))
            self.frames.append((self._documents.tell(), len(frame), len(some)))
            self._documents.write(frame)
        self._rows.write(keys.tobytes())
        self._num_columns = keys.shape[1]

    def close(self) -> None:
        """Finish the files. Keys are transposed to columns, because matching reads one column at a time."""
        self._documents.close()
        self._rows.close()
        path = self._folder / "rows.bin"
        with (self._folder / KEYS).open("xb") as file:
            if path.stat().st_size:
                rows = np.memmap(path, dtype=np.uint64, mode="r").reshape(-1, self._num_columns)
                for column in rows.T:
                    file.write(np.ascontiguousarray(column).tobytes())
        path.unlink()


def hash_document(text: str, id: str, source: str) -> tuple[int, int, int]:
    """Return a document's first three keys: the text's XXH3-128 in two words, and a hash of source and id.

    For a document without an id the third is taken from the text's hash.
    """
    high, low = divmod(xxhash.xxh3_128_intdigest(text.encode()), 1 << 64)
    return high, low, xxhash.xxh3_64_intdigest(f"{source}\0{id}".encode()) if id else low


class DocumentReader:
    """Reads what a DocumentWriter wrote; `len` is the number of documents."""

    def __init__(self, folder: Path, frames: list[Frame]) -> None:
        self._folder = folder
        self._frames = np.array(frames, dtype=np.int64).reshape(-1, 3)
        self._first = np.cumsum([0, *self._frames[:, 2]])
        number = np.cumsum(self._frames[:, 1]) // _BATCH_BYTES
        self._cuts = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), len(frames)] if frames else [0]

    def __len__(self) -> int:
        return int(self._first[-1])

    def column(self, index: int) -> np.ndarray:
        """Return a column of keys, uint64 [documents], mapped from disk."""
        if not len(self):
            return np.zeros(0, dtype=np.uint64)
        offset = 8 * index * len(self)
        return np.memmap(self._folder / KEYS, dtype=np.uint64, mode="r", offset=offset, shape=(len(self),))

    @property
    def num_batches(self) -> int:
        """Number of batches that `batches` yields."""
        return len(self._cuts) - 1

    def batches(self) -> Iterator[tuple[int, list[Labelled]]]:
        """Yield all documents, some frames at a time: the index of the first, and the documents."""
        for start, end in pairwise(self._cuts):
            yield int(self._first[start]), [document for frame in range(start, end) for document in self.read(frame)]

    def find(self, document: int) -> tuple[int, int]:
        """Return the frame of a document and its place in the frame."""
        frame = int(np.searchsorted(self._first, document, side="right")) - 1
        return frame, document - int(self._first[frame])

    def read(self, frame: int) -> list[Labelled]:
        """Read the documents of a frame."""
        offset, num_bytes, _ = self._frames[frame].tolist()
        with (self._folder / DOCUMENTS).open("rb") as file:
            file.seek(offset)
            return orjson.loads(zstandard.ZstdDecompressor().decompress(file.read(num_bytes)))
