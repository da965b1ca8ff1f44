"""Random copies of a text: with words replaced by candidates, or with words masked and cut to a few words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tasks.augmentation.texts import Text

_NGRAM_PROB, _NGRAM_WORDS = 0.25, (2, 10)  # as in the paper and PaddleNLP
_NUM_TRIALS = 10  # draws for a copy that is new


class Copier(Protocol):
    """Makes copies of one text."""

    def draw(self, random: np.random.Generator) -> str:
        """Return a copy, which may be the text itself."""


@dataclass(frozen=True)
class WordReplacer:
    """Replaces every word that has candidates with a probability, by one of them (TinyBERT, algorithm 1)."""

    text: Text
    candidates: Sequence[Sequence[str]]  # of every word of `text.words`
    prob: float

    def draw(self, random: np.random.Generator) -> str:
        """Return a copy."""
        parts, end = [], 0
        for word, options in zip(self.text.words, self.candidates, strict=True):
            if options and random.random() < self.prob:
                parts += [self.text.text[end : word.start], options[int(random.integers(len(options)))]]
                end = word.end
        return "".join([*parts, self.text.text[end:]])


@dataclass(frozen=True)
class MaskAndNGram:
    """Masks every word with a probability; of every fourth copy only 2 to 10 words are kept (arXiv:1903.12136)."""

    text: Text
    mask: str
    prob: float

    def draw(self, random: np.random.Generator) -> str:
        """Return a copy."""
        hidden = random.random(len(self.text.segments)) < self.prob
        segments = zip(hidden, self.text.segments, strict=True)
        words = [self.mask if hide and word.strip() else word for hide, word in segments]
        if words and random.random() < _NGRAM_PROB:
            least, most = _NGRAM_WORDS
            size = min(int(random.integers(least, most + 1)), len(words))
            start = int(random.integers(len(words) - size + 1))
            words = words[start : start + size]
        return "".join(words)


def draw_copies(
    copiers: Sequence[Copier], texts: Sequence[str], number: int, seed: int, row: int
) -> list[tuple[int, str]]:
    """Return at most `number` copies of a record, each different from its text and from the others.

    Copy k is of text k modulo their number, and is drawn from (seed, row, k). Returned are the text's index and the
    copy.
    """
    found: list[tuple[int, str]] = []
    seen = set(enumerate(texts))
    for place in range(number):
        random, index = np.random.default_rng([seed, row, place]), place % len(texts)
        for _ in range(_NUM_TRIALS):
            copy = index, copiers[index].draw(random)
            if copy not in seen and copy[1].strip():
                seen.add(copy)
                found.append(copy)
                break
    return found
