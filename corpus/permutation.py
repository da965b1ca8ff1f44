"""Permutations from keys: of a short list whole, or of an index of a long one with nothing stored.

The second is a Feistel network over a square of at least `size` cells, walked until the index falls inside
(Black and Rogaway, "Ciphers with arbitrary finite domains", 2002): not secret, but well mixed and vectorised.
"""

import numpy as np

_NUM_ROUNDS = 6


def permutation(size: int, *key: int) -> np.ndarray:
    """Ranks of raw bits: NumPy keeps its bit streams for ever, but not what permutation makes of them."""
    return np.argsort(np.random.PCG64(np.random.SeedSequence(key)).random_raw(size), kind="stable")


def key_base(*key: int) -> np.uint64:
    """One 64-bit key of several integers."""
    return np.random.SeedSequence(key).generate_state(1, dtype=np.uint64)[0]


def mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele et al. 2014): uint64 to uint64, one to one, wrapping around."""
    values = values ^ (values >> np.uint64(30))
    values = values * np.uint64(0xBF58476D1CE4E5B9)
    values = values ^ (values >> np.uint64(27))
    values = values * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def permute(indices: np.ndarray, sizes: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Where the permutation of `sizes` [n] elements by uint64 `keys` [n] puts `indices` [n], each its own."""
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
