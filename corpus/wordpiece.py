"""Chinese WordPiece by table: the ids of the Rust tokenizer, many times faster.

BERT's tokenizer makes a word of every Chinese character and every punctuation mark, so most tokens of Chinese
text are one look-up of one code point. Runs of other characters (letters, digits, marks, what the normaliser
removes) go whole through the real tokenizer and are remembered. What a code point is, the real tokenizer says
the first time it is met: `unicodedata` is of another Unicode version.

Cutting at single characters and spaces is exact because BERT's normaliser looks at one character at a time, but
for canonical decomposition, which never moves anything across a character that is no combining mark.
"""

import json
from collections.abc import Sequence
from itertools import chain, pairwise

import numpy as np
from tokenizers import Tokenizer

_NUM_CODE_POINTS = 0x110000
# What the table says of a code point that is not one token by itself
_SPACE, _RUN, _UNKNOWN_YET = -1, -2, -3
_MAX_CACHED_CHARACTERS = 4 << 20
_CHUNK_CHARACTERS = 1 << 17
# What a code point is tried between: Han, Latin, digits, punctuation, a mark
_NEIGHBOURS = "天{0}天 a{0}a 1{0}b 天{0}a a{0}天 ,{0}. a{0}\u0301a"


def is_wordpiece(backend: Tokenizer) -> bool:
    """Whether the tokenizer is BERT's, its Chinese characters split, with no token added that text could hold."""
    state = json.loads(backend.to_str())
    normalizer, splitter = state["normalizer"] or {}, state["pre_tokenizer"] or {}
    return (
        state["model"]["type"] == "WordPiece"
        and normalizer.get("type") == "BertNormalizer"
        and normalizer["clean_text"]
        and normalizer["handle_chinese_chars"]
        and splitter.get("type") == "BertPreTokenizer"
        and all(token["special"] for token in state["added_tokens"])
    )


class WordPieceTable:
    """Ids of texts under a backend that `is_wordpiece`, special tokens of which no text spells."""

    def __init__(self, backend: Tokenizer, dtype: np.dtype) -> None:
        self._backend = backend
        self._dtype = dtype
        self._table = np.full(_NUM_CODE_POINTS, _UNKNOWN_YET, dtype=np.int32)
        self._words = _Words(backend)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """One array of ids a text."""
        encoded: list[np.ndarray] = []
        first = num_characters = 0
        for index, text in enumerate(texts, 1):
            num_characters += len(text)
            if num_characters >= _CHUNK_CHARACTERS or index == len(texts):
                encoded += self._encode_chunk(texts[first:index])
                first, num_characters = index, 0
        return encoded

    def _encode_chunk(self, texts: Sequence[str]) -> list[np.ndarray]:
        """All texts as one sequence of code points, a space after each."""
        codes = np.frombuffer(" ".join([*texts, ""]).encode("utf-32-le"), dtype="<u4")
        ids = self._look_up(codes)
        ends = np.cumsum([len(text) + 1 for text in texts])
        in_run = ids == _RUN
        num_tokens = (ids >= 0).astype(np.int64)
        last = np.flatnonzero(in_run[:-1] & ~in_run[1:])  # a space comes last, so every run has an end
        word_ids, num_tokens[last] = self._words.encode(_spellings(codes, in_run, last))
        tokens = np.repeat(ids, num_tokens).astype(self._dtype)
        tokens[np.repeat(in_run, num_tokens)] = word_ids
        cuts = [0, *np.cumsum(num_tokens)[ends - 1].tolist()]
        return [tokens[start:end] for start, end in pairwise(cuts)]

    def _look_up(self, codes: np.ndarray) -> np.ndarray:
        ids = self._table[codes]
        if ids.min() == _UNKNOWN_YET:
            self._learn(np.unique(codes[ids == _UNKNOWN_YET]))
            ids = self._table[codes]
        return ids

    def _learn(self, codes: np.ndarray) -> None:
        for code in codes.tolist():
            self._table[code] = self._classify(chr(code))

    def _classify(self, character: str) -> int:
        """A code point is a token, or a space, only if spaces around it change nothing; else part of a run."""
        if self._split(_NEIGHBOURS.format(character)) != self._split(_NEIGHBOURS.format(f" {character} ")):
            return _RUN
        ids = self._backend.encode(character, add_special_tokens=False).ids
        return _RUN if len(ids) > 1 else ids[0] if ids else _SPACE

    def _split(self, text: str) -> list[str]:
        normalized = self._backend.normalizer.normalize_str(text)
        return [word for word, _ in self._backend.pre_tokenizer.pre_tokenize_str(normalized)]


def _spellings(codes: np.ndarray, in_run: np.ndarray, last: np.ndarray) -> list[str]:
    """The runs as strings, in order: all of them decoded at once, a space after each, and split again."""
    kept = in_run.copy()
    kept[last + 1] = True
    letters = np.where(in_run, codes, ord(" "))[kept]
    return letters.tobytes().decode("utf-32-le").split(" ")[:-1]


class _Words:
    """The real tokenizer's ids of words, remembered up to a number of characters."""

    def __init__(self, backend: Tokenizer) -> None:
        self._backend = backend
        self._forget()

    def _forget(self) -> None:
        self._index: dict[str, int] = {}
        self._ids = np.empty(0, dtype=np.int32)
        self._starts = np.empty(0, dtype=np.int64)
        self._lengths = np.empty(0, dtype=np.int64)
        self._num_characters = 0

    def encode(self, words: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids of all words one after another, and how many of them each word has."""
        if self._num_characters > _MAX_CACHED_CHARACTERS:
            self._forget()
        if new := dict.fromkeys(words).keys() - self._index.keys():
            self._learn(sorted(new))
        chosen = np.fromiter(map(self._index.__getitem__, words), dtype=np.int64, count=len(words))
        lengths = self._lengths[chosen]
        ends = np.cumsum(lengths)
        within = np.arange(lengths.sum()) - np.repeat(ends - lengths, lengths)
        return self._ids[np.repeat(self._starts[chosen], lengths) + within], lengths

    def _learn(self, words: list[str]) -> None:
        encoded = [encoding.ids for encoding in self._backend.encode_batch_fast(words, add_special_tokens=False)]
        lengths = np.array([len(ids) for ids in encoded], dtype=np.int64)
        self._index |= {word: index for index, word in enumerate(words, len(self._index))}
        self._starts = np.append(self._starts, len(self._ids) + np.cumsum(lengths) - lengths)
        self._ids = np.append(self._ids, np.fromiter(chain.from_iterable(encoded), dtype=np.int32))
        self._lengths = np.append(self._lengths, lengths)
        self._num_characters += sum(map(len, words))
