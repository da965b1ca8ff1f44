"""Word planes: for each token one bit, whether it continues the word of the token before it.

Words are those of rjieba's segmentation. Planes are stored when a corpus is built, so that whole words can be masked
differently in every epoch without a segmenter in the data loader.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from corpus.vocabulary.tokenizer import TextEncoder


def check_segmenter() -> None:
    """Raise ValueError if rjieba is not installed."""
    load_segmenter()


def load_segmenter(needed_by: str = "whole_words") -> Any:
    """Return rjieba. Raise ValueError, naming what needs it, if it is not installed."""
    try:
        import rjieba
    except ImportError as error:
        raise ValueError(f"{needed_by} needs the package rjieba: pip install rjieba==0.2.2") from error
    return rjieba


def encode_with_words(encoder: TextEncoder, texts: list[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the ids [tokens] of every normalised text, as the encoder gives them, and its word plane, bool [tokens].

    Uses the tokenizer itself, whose offsets are needed: 2 MB/s a core, where the table for WordPiece reaches 190.
    """
    cut = load_segmenter().cut
    for text, encoding in zip(texts, encoder.backend.encode_batch(texts, add_special_tokens=False), strict=True):
        offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        yield np.array(encoding.ids, dtype=encoder.dtype), _plane(cut(text), offsets)


def _plane(words: list[str], offsets: np.ndarray) -> np.ndarray:
    """Whether each token begins in the word in which the token before it ends; `offsets` [tokens, 2] in characters."""
    word_of = np.repeat(np.arange(len(words)), [len(word) for word in words])
    plane = np.zeros(len(offsets), dtype=bool)
    begins, ends = offsets[1:, 0], offsets[:-1, 1] - 1
    plane[1:] = word_of[np.minimum(begins, len(word_of) - 1)] == word_of[np.maximum(ends, 0)]
    return plane
