"""Seeded permutations that never change with the version of NumPy.

`permutation` shuffles a short list. `permute` maps single indices of a permutation too long to store: a Feistel
network over a square of at least `size` cells, repeated until the index falls inside (cycle walking; Black and Rogaway,
"Ciphers with arbitrary finite domains", 2002). It is not cryptographic, but well mixed and vectorised.
"""

import numpy as np

_NUM_ROUNDS = 6


def permutation(size: int, *key: int) -> np.ndarray:
    """Return a permutation of 0 to size - 1, int64 [size], determined by the integers of the key.

    Sorts raw random bits: NumPy keeps bit streams stable across versions, but not `Generator.permutation`.
    """
    return np.argsort(np.random.PCG64(np.random.SeedSequence(key)).random_raw(size), kind="stable")


def derive_key(*key: int) -> np.uint64:
    """Return a 64-bit key derived from several integers."""
    return np.random.SeedSequence(key).generate_state(1, dtype=np.uint64)[0]


def mix(values: np.ndarray) -> np.ndarray:
    """Hash uint64 values one to one, elementwise: the finaliser of SplitMix64 (Steele et al. 2014)."""
    values = values ^ (values >> np.uint64(30))
    values = values * np.uint64(0xBF58476D1CE4E5B9)
    values = values ^ (values >> np.uint64(27))
    values = values * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def permute(indices: np.ndarray, sizes: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Map each of `indices` [n] by its own permutation.

    Args:
        indices: int64 [n], each below its size.
        sizes: int64 [n], the length of each permutation.
        keys: uint64 [n], the key of each permutation.
    """
    sides = np.ceil(np.sqrt(sizes)).astype(np.int64)
    permuted = _walk(indices, sides, keys)
    while len(outside := np.flatnonzero(permuted >= sizes)):
        permuted[outside] = _walk(permuted[outside], sides[outside], keys[outside])
    return permuted


def _walk(indices: np.ndarray, sides: np.ndarray, keys: np.ndarray) -> np.ndarray:
    left, right = np.divmod(indices, sides)
    for number in range(_NUM_ROUNDS):
        bits = mix(keys + (right + (number << 32)).astype(np.uint64)) >> np.uint64(33)
        left, right = right, (left + bits.astype(np.int64)) % sides
    return left * sides + right
