"""Masks of rows for masked language modelling: a pure function of (seed, position), whoever computes them.

BERT's masking (arXiv:1810.04805) at a fixed rate: of the n tokens of a row that may be masked round(prob x n) are
chosen, at least one; of these, token by token, 80 % become the mask token, 10 % a random one and 10 % stay as they are.
No special token is chosen, and none is the random one.

With whole words, words are taken in random order until that many tokens are chosen, so the last word may go beyond it.
The 80/10/10 is still by token, as in BERT's own whole-word masking. A word cut by the end of a row is masked in part.

n rows, L tokens a row, V vocabulary.
"""

from typing import Annotated

import numpy as np
from pydantic import Field

from corpus.config import Record
from corpus.permutation import key_base, mix
from corpus.shards.manifest import Manifest

IGNORED = -100  # the label that PyTorch's losses leave out
_MASKS, _FATES = 3, 4
_TOKENS_PER_CHUNK = 1 << 15  # what stays in a core's cache


class MaskingSettings(Record):
    """Share of the tokens of a row that are to be predicted, and whether they are chosen by words."""

    prob: Annotated[float, Field(gt=0, lt=1)] = 0.15
    whole_words: bool = False


class Masker:
    """The masks of a corpus's rows.

    Raises ValueError for whole words of a corpus without word planes, and for a tokenizer without a mask token.
    """

    def __init__(self, manifest: Manifest, settings: MaskingSettings, seed: int) -> None:
        tokenizer, where = manifest.tokenizer, manifest.store.location
        if tokenizer.mask_token_id is None:
            raise ValueError(f"{where}: masking needs a mask token, and the tokenizer {tokenizer.name} has none")
        if settings.whole_words and not manifest.has_word_planes:
            raise ValueError(f"{where}: masking by whole words needs word planes, and the corpus was built without")
        self.whole_words = settings.whole_words
        self._prob, self._mask_id = settings.prob, tokenizer.mask_token_id
        special = [index for name, index in tokenizer if name.endswith("_token_id") and index is not None]
        self._is_text = np.ones(tokenizer.vocab_size, dtype=bool)
        self._is_text[special] = False
        self._ordinary = np.flatnonzero(self._is_text)
        self._row_key, self._fate_key = key_base(seed, _MASKS), key_base(seed, _FATES)

    def mask(
        self, ids: np.ndarray, positions: np.ndarray, continues_word: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Masked ids and labels, int64 [n, L] both, of rows `ids` [n, L] at `positions` [n] in all epochs.

        A label is the id before masking where a token was chosen, -100 elsewhere. `continues_word` bool [n, L] is
        needed for whole words.
        """
        masked, labels = ids.astype(np.int64), np.full(ids.shape, IGNORED, dtype=np.int64)
        step = max(1, _TOKENS_PER_CHUNK // ids.shape[1])
        for start in range(0, len(ids), step):
            part = slice(start, start + step)
            words = continues_word[part] if self.whole_words and continues_word is not None else None
            chosen, random = self._choose(ids[part], positions[part], words)
            originals = masked[part][chosen]
            labels[part][chosen] = originals
            masked[part][chosen] = self._replace(originals, random)
        return masked, labels

    def _choose(
        self, ids: np.ndarray, positions: np.ndarray, continues_word: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Which tokens are chosen, bool [n, L], and random bits uint64 of each of these."""
        row_keys = mix(self._row_key + positions.astype(np.uint64))
        # Different within a row: mix is one to one.
        random = mix(row_keys[:, None] + np.arange(ids.shape[1], dtype=np.uint64))
        is_text = self._is_text[ids]
        ranks = random if continues_word is None else _of_first_tokens(random, is_text, continues_word)
        ranks = np.where(is_text, ranks, np.iinfo(np.uint64).max)
        num_text = is_text.sum(axis=1)
        num_chosen = np.maximum(np.rint(self._prob * num_text).astype(np.int64), 1)
        last = np.sort(ranks, axis=1)[np.arange(len(ids)), num_chosen - 1]
        chosen = (ranks <= last[:, None]) & is_text
        return chosen, random[chosen]

    def _replace(self, ids: np.ndarray, random: np.ndarray) -> np.ndarray:
        """What the chosen `ids` [m] become."""
        random = mix(random + self._fate_key)
        fates = random % np.uint64(10)
        others = self._ordinary[(mix(random) >> np.uint64(1)).astype(np.int64) % len(self._ordinary)]
        return np.where(fates < 8, self._mask_id, np.where(fates == 8, others, ids))


def _of_first_tokens(random: np.ndarray, is_text: np.ndarray, continues_word: np.ndarray) -> np.ndarray:
    """The random bits of the first token of each token's word [n, L]; a special token ends a word."""
    begins = np.ones_like(is_text)
    begins[:, 1:] = ~(continues_word[:, 1:] & is_text[:, 1:] & is_text[:, :-1])
    columns = np.where(begins, np.arange(random.shape[1]), 0)
    return np.take_along_axis(random, np.maximum.accumulate(columns, axis=1), axis=1)
