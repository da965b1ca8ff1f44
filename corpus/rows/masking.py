"""Masked language modelling: masks that depend only on (seed, position), not on ranks or batches.

BERT's masking (arXiv:1810.04805) at a fixed rate: of the n tokens of a row that are not special, round(prob x n) are
chosen, at least one. Each of these becomes the mask token (80 % by default), a random piece that is not special (10 %)
or stays unchanged (the rest).

With whole words, words are taken in random order, and one that would exceed that many tokens is left out, as in BERT's
own whole-word masking: a row all of whose words are longer has no masks. What replaces them is drawn for each token. A
word cut by the end of a row is masked in part.

With n-grams, as in ALBERT (arXiv:1909.11942), a row is cut into runs of 1 to N words, or of tokens without whole words;
a run of n words is as likely as 1/n. Runs are then taken as words are.

n rows, L tokens a row, V vocabulary.
"""

from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from corpus.config import StrictModel
from corpus.permutation import derive_key, mix
from corpus.shards.manifest import Manifest

IGNORED = -100  # the label that PyTorch's losses ignore
_CHOICE, _REPLACEMENT, _RUNS, _DRAWS = 3, 4, 6, 7  # keys of independent random numbers
_NEVER = np.iinfo(np.uint64).max  # the rank of special tokens
_TOKENS_PER_CHUNK = 1 << 15  # small enough for a core's cache
_PARTS = 10_000  # into which shares of chosen tokens are divided
_Share = Annotated[float, Field(ge=0, le=1)]


class MaskingSettings(StrictModel):
    """Masked language modelling (by default BERT's 80/10/10; ELECTRA's is 85/0/15)."""

    prob: Annotated[float, Field(gt=0, lt=1)] = 0.15  # share of the tokens of a row to predict
    whole_words: bool = False  # choose whole words; needs a corpus built with whole_words
    max_ngram: Annotated[int, Field(ge=1, le=10)] = 1  # choose runs of up to so many words or tokens; ALBERT's is 3
    mask_share: _Share = 0.8  # share of the chosen tokens that become the mask token
    random_share: _Share = 0.1  # share that become random ones; the rest stay as they are

    @model_validator(mode="after")
    def _check_shares(self) -> "MaskingSettings":
        if round(_PARTS * self.mask_share) + round(_PARTS * self.random_share) > _PARTS:
            shares = f"mask_share ({self.mask_share}) and random_share ({self.random_share})"
            raise ValueError(f"{shares} are shares of the same tokens: together at most 1")
        return self


class Masker:
    """Masks the rows of a corpus.

    Raises ValueError if the tokenizer has no mask token, and for whole words if the corpus has no word planes.
    """

    def __init__(self, manifest: Manifest, settings: MaskingSettings, seed: int) -> None:
        tokenizer, where = manifest.tokenizer, manifest.store.location
        if tokenizer.mask_token_id is None:
            raise ValueError(f"{where}: masking needs a mask token, and the tokenizer {tokenizer.name} has none")
        if settings.whole_words and not manifest.has_word_planes:
            raise ValueError(f"{where}: masking whole words needs word planes; build the corpus with whole_words")
        self.whole_words, self._settings = settings.whole_words, settings
        self._mask_id = tokenizer.mask_token_id
        special = [index for name, index in tokenizer if name.endswith("_token_id") and index is not None]
        self._is_text = np.ones(tokenizer.vocab_size, dtype=bool)
        self._is_text[[*special, *tokenizer.ids_without_piece]] = False
        self._ordinary = np.flatnonzero(self._is_text)
        self._row_key, self._replacement_key = derive_key(seed, _CHOICE), derive_key(seed, _REPLACEMENT)
        self._runs_key, self._draws_key = derive_key(seed, _RUNS), derive_key(seed, _DRAWS)

    def mask(
        self, ids: np.ndarray, positions: np.ndarray, continues_word: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the masked ids and the labels of rows, int64 [n, L] each.

        Args:
            ids: [n, L].
            positions: int64 [n], of the rows since training began; each position has a mask of its own.
            continues_word: bool [n, L], the rows' word planes; needed for whole words.

        A label is the id before masking where a token was chosen, -100 elsewhere.
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

    def draws(self, positions: np.ndarray, row_tokens: int) -> np.ndarray:
        """Return random numbers from 0 to below 1, one for each token of rows at positions [n], float64 [n, L]."""
        return (_random(self._draws_key, positions, row_tokens) >> np.uint64(11)) * 2.0**-53

    def _choose(
        self, ids: np.ndarray, positions: np.ndarray, continues_word: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Which tokens are chosen, bool [n, L], and random bits for each chosen one, uint64 [m]."""
        random = _random(self._row_key, positions, ids.shape[1])
        is_text = self._is_text[ids]
        if self._settings.max_ngram > 1:
            words = np.zeros_like(is_text) if continues_word is None else continues_word
            bits = _random(self._runs_key, positions, ids.shape[1])
            continues_word = _join_words(words, is_text, _run_lengths(bits, self._settings.max_ngram))
        ranks = random if continues_word is None else _of_first_tokens(random, is_text, continues_word)
        ranks = np.where(is_text, ranks, _NEVER)
        num_text = is_text.sum(axis=1)
        num_chosen = np.maximum(np.rint(self._settings.prob * num_text).astype(np.int64), 1)
        if continues_word is None:
            last = np.sort(ranks, axis=1)[np.arange(len(ids)), num_chosen - 1]
            chosen = (ranks <= last[:, None]) & is_text
        else:
            chosen = _choose_words(ranks, num_chosen)
        return chosen, random[chosen]

    def _replace(self, ids: np.ndarray, random: np.ndarray) -> np.ndarray:
        """The ids [m] that replace the chosen ones."""
        random = mix(random + self._replacement_key)
        # The tenths are the last decimal, as they were before shares could be chosen: old runs keep their masks.
        draws = random % np.uint64(10) * np.uint64(_PARTS // 10) + random // np.uint64(10) % np.uint64(_PARTS // 10)
        masked, others = (round(_PARTS * share) for share in (self._settings.mask_share, self._settings.random_share))
        pieces = self._ordinary[(mix(random) >> np.uint64(1)).astype(np.int64) % len(self._ordinary)]
        return np.where(draws < masked, self._mask_id, np.where(draws < masked + others, pieces, ids))


def _random(key: np.uint64, positions: np.ndarray, row_tokens: int) -> np.ndarray:
    """Random bits for each token, uint64 [n, L]; all different within a row, because mix is one to one."""
    row_keys = mix(key + positions.astype(np.uint64))
    return mix(row_keys[:, None] + np.arange(row_tokens, dtype=np.uint64))


def _begins(is_text: np.ndarray, continues_word: np.ndarray) -> np.ndarray:
    """Whether a word begins at each token, bool [n, L]; special tokens end words."""
    begins = np.ones_like(is_text)
    begins[:, 1:] = ~(continues_word[:, 1:] & is_text[:, 1:] & is_text[:, :-1])
    return begins


def _of_first_tokens(random: np.ndarray, is_text: np.ndarray, continues_word: np.ndarray) -> np.ndarray:
    """For each token the random bits of its word's first token, [n, L]."""
    columns = np.where(_begins(is_text, continues_word), np.arange(random.shape[1]), 0)
    return np.take_along_axis(random, np.maximum.accumulate(columns, axis=1), axis=1)


def _run_lengths(random: np.ndarray, most: int) -> np.ndarray:
    """Lengths of runs, int64 [n, L]: n from 1 to `most` with a probability that is proportional to 1 / n."""
    shares = 1 / np.arange(1, most + 1)
    ends = np.cumsum(shares)[:-1] / shares.sum()
    return 1 + np.searchsorted(ends, (random >> np.uint64(11)) * 2.0**-53, side="right")


def _join_words(continues_word: np.ndarray, is_text: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return whether each token continues the run of words of the token before it, bool [n, L].

    Args:
        lengths: words of the first, second, ... run of each row, int64 [n, L].
    """
    begins = _begins(is_text, continues_word)
    word = np.cumsum(begins, axis=1) - 1
    first = np.zeros((len(word), word.shape[1] + 1), dtype=bool)  # whether a run begins at each word
    np.put_along_axis(first, np.minimum(np.cumsum(lengths, axis=1), word.shape[1]), True, axis=1)
    return ~(begins & np.take_along_axis(first, word, axis=1))


def _choose_words(ranks: np.ndarray, num_chosen: np.ndarray) -> np.ndarray:
    """Take words in the order of their ranks, leaving out those that would exceed a row's number of tokens.

    Args:
        ranks: uint64 [n, L], the same for all tokens of a word, `_NEVER` for special tokens.
        num_chosen: the most tokens of each row, int64 [n].

    Returns which tokens are chosen, bool [n, L].
    """
    order = np.argsort(ranks, axis=1, kind="stable")  # brings the tokens of each word together
    ranks = np.take_along_axis(ranks, order, axis=1)
    columns = np.arange(ranks.shape[1])
    begins = np.diff(ranks, axis=1, prepend=_NEVER) != 0
    begins[:, 0] = True
    ends = np.roll(begins, -1, axis=1)
    first = np.maximum.accumulate(np.where(begins, columns, 0), axis=1)
    last = np.minimum.accumulate(np.where(ends, columns, columns[-1])[:, ::-1], axis=1)[:, ::-1]
    sizes, is_text = last - first + 1, ranks != _NEVER
    chosen = is_text & (last < num_chosen[:, None])
    rest = num_chosen - chosen.sum(axis=1)
    while True:
        fits = is_text & ~chosen & (sizes <= rest[:, None])
        (rows,) = np.nonzero(fits.any(axis=1))
        if not len(rows):
            break
        word = ranks[rows, fits[rows].argmax(axis=1)]  # the next that fits: no earlier one fits what is left now
        chosen[rows] |= ranks[rows] == word[:, None]
        rest[rows] = num_chosen[rows] - chosen[rows].sum(axis=1)
    result = np.zeros_like(chosen)
    np.put_along_axis(result, order, chosen, axis=1)
    return result
