"""Measures of a text that the cleaning rules compare with their limits, vectorised over its characters."""

import numpy as np

NGRAM_CHARACTERS = 13
_MULTIPLIER = 0x9E3779B1


def code_points(text: str) -> np.ndarray:
    """Return the code points of a text, uint32 [characters]."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def has_chinese_share(codes: np.ndarray, min_share: float) -> bool:
    """Whether `chinese_share` is at least `min_share`; usually decided by a count of the common characters alone."""
    # Unsigned: code points below the range wrap around to values above it.
    num_common = np.count_nonzero(codes - np.uint32(0x4E00) < 0x5200)
    return bool(num_common >= min_share * len(codes)) or chinese_share(codes) >= min_share


def chinese_share(codes: np.ndarray) -> float:
    """Return the share of Han characters among all but spaces and newlines; 0 for an empty text."""
    num_visible = np.count_nonzero(codes > 0x20)
    num_han = np.count_nonzero(codes - np.uint32(0x3400) < 0xA000 - 0x3400)
    num_han += np.count_nonzero(codes - np.uint32(0xF900) < 0x200)
    num_han += np.count_nonzero(codes - np.uint32(0x20000) < 0x20000)
    return num_han / num_visible if num_visible else 0.0


def mean_line_characters(text: str) -> float:
    """Return the mean number of characters a line."""
    num_breaks = text.count("\n")
    return (len(text) - num_breaks) / (num_breaks + 1)


def repeated_line_share(text: str) -> float:
    """Return the share of characters in lines that repeat an earlier line."""
    lines = text.split("\n")
    unique = set(lines)
    if len(unique) == len(lines):
        return 0.0
    num_characters = sum(map(len, lines))
    return (num_characters - sum(map(len, unique))) / num_characters if num_characters else 0.0


def repeated_ngram_share(codes: np.ndarray) -> float:
    """Return the share of character 13-grams that repeat an earlier one.

    Compares 32-bit hashes: in a text of a million characters, one in 10,000 n-grams collides with another.
    """
    if len(codes) <= NGRAM_CHARACTERS:
        return 0.0
    pairs = _joined(codes, codes, 1)
    fours = _joined(pairs, pairs, 2)
    eights = _joined(fours, fours, 4)
    hashes = _joined(_joined(eights, fours, 8), codes, 12)
    hashes.sort()
    return 1.0 - (1 + np.count_nonzero(hashes[1:] != hashes[:-1])) / len(hashes)


def _joined(left: np.ndarray, right: np.ndarray, left_characters: int) -> np.ndarray:
    """Hashes of n-grams, from the hashes of their first `left_characters` characters and of the rest."""
    right = right[left_characters:]
    factor = np.uint32(pow(_MULTIPLIER, left_characters, 1 << 32))
    return left[: len(right)] * factor + right
