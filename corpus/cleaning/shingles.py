"""Documents as sets of character 5-grams (shingles): their 64-bit hashes, and MinHash bands to find near duplicates.

112 MinHash values in 14 bands of 8 (Broder 1997; banding as in Leskovec, Rajaraman, Ullman, "Mining of Massive
Datasets", 3.4). Two documents of Jaccard index J share a band with probability 1 - (1 - J^8)^14: 0.96 at J = 0.82
(2 % of the characters edited), 0.05 at J = 0.5. Shapes: N documents, S shingles of all documents together.
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
    """Hash the shingles of N texts.

    Args:
        texts: normalised, so without NULs; none is empty. A text under 5 characters is one shingle.

    Returns:
        Hashes uint64 [S] of all shingles in order, repeats included, and int64 [N + 1]: the shingles of text i are
        hashes[offsets[i] : offsets[i + 1]].
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
    # Windows that reach into the padding are left out, except the only one of a short text.
    starts = np.concatenate([[0], np.cumsum(lengths + len(padding))[:-1]])
    windows = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], counts)
    return mix(hashes[windows]), offsets  # mixed: every bit of the sum affects every bit of the hash


def build_bands(hashes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return the band keys of N texts from `hash_shingles`, uint64 [N, 14].

    Texts with the same key in any band may be near duplicates.
    """
    num_hashes = NUM_BANDS * _ROWS_PER_BAND
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets.astype(np.uint64), num_hashes, _SEED)
    digests = np.array(matrix.to_rows(), dtype=np.uint64).reshape(-1, NUM_BANDS, _ROWS_PER_BAND)
    return mix((digests * _BAND_FACTORS).sum(axis=2, dtype=np.uint64))
