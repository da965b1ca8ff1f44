"""Decontamination: find documents that contain a text of a test set, on which students will be evaluated."""

import warnings
from collections.abc import Iterable

import numpy as np

from corpus.cleaning.shingles import hash_shingles

# A document contains a test text if it has this share of the text's 5-grams. Shorter texts are common phrases.
MIN_CONTAINMENT = 0.8
MIN_CHARACTERS = 15
_TABLE_BITS = 24


class TestTexts:
    """Finds test texts in documents by their character 5-grams, also if a few characters were edited.

    Args:
        texts: normalised like the documents. Those shorter than MIN_CHARACTERS are ignored, with a warning.
    """

    __test__ = False  # pytest would collect a class of this name

    def __init__(self, texts: Iterable[str]) -> None:
        distinct = list(dict.fromkeys(texts))
        long = [text for text in distinct if len(text) >= MIN_CHARACTERS]
        if len(long) < len(distinct):
            short = len(distinct) - len(long)
            warnings.warn(f"{short} test texts of under {MIN_CHARACTERS} characters are not looked for", stacklevel=2)
        hashes, offsets = hash_shingles(long) if long else (np.zeros(0, np.uint64), np.zeros(1, np.int64))
        owners = np.repeat(np.arange(len(long)), np.diff(offsets))
        # The texts that hold keys[i] are owners[starts[i] : starts[i + 1]].
        order = np.lexsort((owners, hashes))
        hashes, owners = hashes[order], owners[order]
        is_new = np.append(True, (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1]))[: len(hashes)]
        hashes, self._owners = hashes[is_new], owners[is_new]
        self._keys, first = np.unique(hashes, return_index=True)
        self._starts = np.append(first, len(hashes))
        num_shingles = np.bincount(self._owners, minlength=len(long))
        self._needed = np.ceil(MIN_CONTAINMENT * num_shingles).astype(np.int64)
        # A Bloom filter of one hash: rules out nearly all shingles of a corpus without a binary search.
        self._table = np.zeros(1 << _TABLE_BITS, dtype=bool)
        self._table[_slot(self._keys)] = True

    def find(self, hashes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Return whether each of N documents contains a test text, bool [N].

        Args:
            hashes, offsets: of the documents, from `hash_shingles`.
        """
        found = np.zeros(len(offsets) - 1, dtype=bool)
        hits = np.flatnonzero(self._table[_slot(hashes)])
        at = np.searchsorted(self._keys, hashes[hits])
        is_hit = at < len(self._keys)
        is_hit[is_hit] = self._keys[at[is_hit]] == hashes[hits[is_hit]]
        hits, at = hits[is_hit], at[is_hit]
        documents = np.searchsorted(offsets, hits, side="right") - 1
        # A shingle counts once for each document and for each test text that contains it.
        documents, at = np.divmod(np.unique(documents * len(self._keys) + at), max(len(self._keys), 1))
        counts = self._starts[at + 1] - self._starts[at]
        step = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        owners = self._owners[np.repeat(self._starts[at], counts) + step]
        num_texts = max(len(self._needed), 1)
        pairs, shared = np.unique(np.repeat(documents, counts) * num_texts + owners, return_counts=True)
        found[pairs[shared >= self._needed[pairs % num_texts]] // num_texts] = True
        return found


def _slot(hashes: np.ndarray) -> np.ndarray:
    return (hashes >> np.uint64(64 - _TABLE_BITS)).astype(np.int64)
