"""Chinese WordPiece by table: the same ids as the Rust tokenizer, many times faster.

BERT's tokenizer makes a word of every Chinese character and every punctuation mark, so most tokens of Chinese text
are a look-up of one code point. Runs of other characters (letters, digits, combining marks, what the normaliser
removes) go through the real tokenizer as a whole and are cached. A code point is classified by the real tokenizer when
it first occurs; Python's `unicodedata` may have another version of Unicode.

Splitting at single characters and spaces is exact: BERT's normaliser works character by character, except for
canonical decomposition, which moves nothing across a character that is not a combining mark.
"""

import json
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np
from tokenizers import Tokenizer

_NUM_CODE_POINTS = 0x110000
# Entries of the table for code points that are not one token by themselves
_SPACE, _RUN, _UNKNOWN_YET = -1, -2, -3
_MAX_CACHED_CHARACTERS = 4 << 20
_CHUNK_CHARACTERS = 1 << 17
# Contexts in which a code point is tested: Han, Latin, digits, punctuation, a combining mark
_NEIGHBOURS = (("天", "天"), ("a", "a"), ("1", "b"), ("天", "a"), ("a", "天"), (",", "."), ("a", "\u0301a"))


def is_wordpiece(backend: Tokenizer) -> bool:
    """Whether a tokenizer is BERT's, splits Chinese characters, and has no added tokens but special ones."""
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
    """Encodes texts like a backend for which `is_wordpiece` is true and whose special tokens occur in no text."""

    def __init__(self, backend: Tokenizer, dtype: np.dtype) -> None:
        self._backend = backend
        self._dtype = dtype
        self._table = np.full(_NUM_CODE_POINTS, _UNKNOWN_YET, dtype=np.int32)
        self._words = _Words(backend)
        self._sides = [(self._split(before), self._split(after)) for before, after in _NEIGHBOURS]

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return an array of ids [tokens] for each text."""
        return [ids for chunk in _chunks(texts) for ids in self._encode_chunk(chunk)]

    def count_words(self, texts: Iterable[str]) -> Counter[str]:
        """Count the words that the pre-tokenizer gives: single characters, and the words in runs of others."""
        raw: Counter[str] = Counter()
        for chunk in _chunks(texts):
            codes, ids = self._look_up(chunk)
            characters, counts = np.unique(codes[ids >= 0], return_counts=True)
            raw.update(dict(zip(map(chr, characters.tolist()), counts.tolist(), strict=True)))
            in_run = ids == _RUN
            raw.update(_spellings(codes, in_run, _last_of_runs(in_run)))
        words: Counter[str] = Counter()
        for spelling, count in raw.items():
            for word in self._split(spelling):
                words[word] += count
        return words

    def _encode_chunk(self, texts: Sequence[str]) -> list[np.ndarray]:
        codes, ids = self._look_up(texts)
        ends = np.cumsum([len(text) + 1 for text in texts])
        in_run = ids == _RUN
        num_tokens = (ids >= 0).astype(np.int64)
        last = _last_of_runs(in_run)
        word_ids, num_tokens[last] = self._words.encode(_spellings(codes, in_run, last))
        tokens = np.repeat(ids, num_tokens).astype(self._dtype)
        tokens[np.repeat(in_run, num_tokens)] = word_ids
        cuts = [0, *np.cumsum(num_tokens)[ends - 1].tolist()]
        return [tokens[start:end] for start, end in pairwise(cuts)]

    def _look_up(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Code points of all texts, with a space after each, and their entries in the table."""
        codes = np.frombuffer(" ".join([*texts, ""]).encode("utf-32-le"), dtype="<u4")
        ids = self._table[codes]
        if ids.min() == _UNKNOWN_YET:
            self._learn(np.unique(codes[ids == _UNKNOWN_YET]))
            ids = self._table[codes]
        return codes, ids

    def _learn(self, codes: np.ndarray) -> None:
        for code in codes.tolist():
            self._table[code] = self._classify(chr(code))

    def _classify(self, character: str) -> int:
        """An id or _SPACE for a code point that gives the same words in any context as alone, else _RUN."""
        alone = self._split(character)
        expected = [word for before, after in self._sides for word in (*before, *alone, *after)]
        if self._split(" ".join(f"{before}{character}{after}" for before, after in _NEIGHBOURS)) != expected:
            return _RUN
        ids = self._backend.encode(character, add_special_tokens=False).ids
        return _RUN if len(ids) > 1 else ids[0] if ids else _SPACE

    def _split(self, text: str) -> list[str]:
        normalized = self._backend.normalizer.normalize_str(text)
        return [word for word, _ in self._backend.pre_tokenizer.pre_tokenize_str(normalized)]


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    """Lists of texts, each small enough for its code points to stay in the processor's cache."""
    chunk: list[str] = []
    num_characters = 0
    for text in texts:
        chunk.append(text)
        num_characters += len(text)
        if num_characters >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, num_characters = [], 0
    if chunk:
        yield chunk


def _last_of_runs(in_run: np.ndarray) -> np.ndarray:
    """The last index of each run; the final code point is a space, so every run ends."""
    return np.flatnonzero(in_run[:-1] & ~in_run[1:])


def _spellings(codes: np.ndarray, in_run: np.ndarray, last: np.ndarray) -> list[str]:
    """The runs as strings, in order: decoded together with a space after each, then split."""
    kept = in_run.copy()
    kept[last + 1] = True
    letters = np.where(in_run, codes, ord(" "))[kept]
    return letters.tobytes().decode("utf-32-le").split(" ")[:-1]


class _Words:
    """The real tokenizer's ids of words, cached up to a number of characters."""

    def __init__(self, backend: Tokenizer) -> None:
        self._backend = backend
        self._forget()

    def _forget(self) -> None:
        self._index: dict[str, int] = {}
        self._ids, self._starts, self._lengths = array("i"), array("q"), array("q")
        self._num_characters = 0

    def encode(self, words: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """The ids of all words, concatenated, and the number of ids of each word."""
        if self._num_characters > _MAX_CACHED_CHARACTERS:
            self._forget()
        if new := [word for word in dict.fromkeys(words) if word not in self._index]:
            self._learn(new)
        chosen = np.fromiter(map(self._index.__getitem__, words), dtype=np.int64, count=len(words))
        lengths = np.asarray(self._lengths)[chosen]
        ends = np.cumsum(lengths)
        # The index in the cached ids of each token: the start of its word, plus its place in the word
        shift = np.asarray(self._starts)[chosen] - (ends - lengths)
        return np.asarray(self._ids)[np.repeat(shift, lengths) + np.arange(lengths.sum())], lengths

    def _learn(self, words: list[str]) -> None:
        for word, encoding in zip(words, self._backend.encode_batch_fast(words, add_special_tokens=False), strict=True):
            self._index[word] = len(self._index)
            self._starts.append(len(self._ids))
            self._lengths.append(len(encoding.ids))
            self._ids.extend(encoding.ids)
            self._num_characters += len(word)
