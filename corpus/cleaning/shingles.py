"""Documents as sets of their character 5-grams: 64-bit hashes, and the bands of their MinHash.

112 hashes in 14 bands of 8 (Broder 1997; banding as in Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets",
3.4): two documents share a band with probability 1 - (1 - J^8)^14, which is 0.96 at J = 0.82, the likeness left by
edits of 2 % of the characters, and 0.05 at J = 0.5. Shapes: N documents, S shingles of all of them together.
"""

import numpy as np
from rensa import RMinHash

from corpus.permutation import mix

NUM_BANDS = 14
_ROWS_PER_BAND = 8
_SEED = 42
_LENGTH = 5
_rng = np.random.Generator(np.random.PCG64(_SEED))
_POWERS = _rng.integers(1 << 63, size=_LENGTH, dtype=np.uint64) * 2 + 1
_BAND_FACTORS = _rng.integers(1 << 63, size=_ROWS_PER_BAND, dtype=np.uint64) * 2 + 1


def hash_shingles(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Hashes uint64 [S] of all texts' shingles, in order and with repeats, and offsets [N + 1] of each text's own.

    A text under 5 characters is one shingle. No text holds a NUL (normalisation removes them) or is empty.
    """
    padding = "\0" * (_LENGTH - 1)
    codes = np.frombuffer((padding.join(texts) + padding).encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    num_windows = len(codes) - len(padding)
    hashes = np.zeros(num_windows, dtype=np.uint64)
    for step, power in enumerate(_POWERS):
        hashes += codes[step : step + num_windows] * power
    lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    counts = np.maximum(lengths - len(padding), 1)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    # Windows that reach into the padding belong to nobody, but for the first of a short text.
    starts = np.concatenate([[0], np.cumsum(lengths + len(padding))[:-1]])
    windows = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], counts)
    return mix(hashes[windows]), offsets  # every bit of the sum reaches every bit of the hash


def build_bands(hashes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Band keys uint64 [N, 14] of texts' shingles: texts that share a key in a band may be near duplicates."""
    num_hashes = NUM_BANDS * _ROWS_PER_BAND
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets.astype(np.uint64), num_hashes, _SEED)
    digests = np.array(matrix.to_rows(), dtype=np.uint64).reshape(-1, NUM_BANDS, _ROWS_PER_BAND)
    return mix((digests * _BAND_FACTORS).sum(axis=2, dtype=np.uint64))
