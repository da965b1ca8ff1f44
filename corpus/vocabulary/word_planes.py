"""Word planes: which tokens continue the word of the token before them, words being those of rjieba's segmentation.

Stored when a corpus is built, so that whole words can be masked anew in every epoch with no segmenter in the loader.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from corpus.vocabulary.tokenizer import TextEncoder


def check_segmenter() -> None:
    """ValueError where rjieba is not installed."""
    _segmenter()


def _segmenter() -> Any:
    try:
        import rjieba
    except ImportError as error:
        raise ValueError("whole_words needs the package rjieba: pip install rjieba==0.2.2") from error
    return rjieba


def encode_with_words(encoder: TextEncoder, texts: list[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Ids [tokens] of every text, as the encoder gives them, and its word plane, bool [tokens].

    Always by the tokenizer itself, for its offsets: 2 MB/s a core where the table for WordPiece makes 190.
    """
    cut = _segmenter().cut
    for text, encoding in zip(texts, encoder.backend.encode_batch(texts, add_special_tokens=False), strict=True):
        offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        yield np.array(encoding.ids, dtype=encoder.dtype), _plane(cut(text), offsets)


def _plane(words: list[str], offsets: np.ndarray) -> np.ndarray:
    """Whether a token begins in the word that the token before it ends in; `offsets` [tokens, 2] in characters."""
    word_of = np.repeat(np.arange(len(words)), [len(word) for word in words])
    plane = np.zeros(len(offsets), dtype=bool)
    begins, ends = offsets[1:, 0], offsets[:-1, 1] - 1
    plane[1:] = word_of[np.minimum(begins, len(word_of) - 1)] == word_of[np.maximum(ends, 0)]
    return plane
