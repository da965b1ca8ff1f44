"""Load and fingerprint fast Hugging Face tokenizers, and encode plain text with them."""

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from corpus.vocabulary.pieces import num_ids, pieces_by_id
from corpus.vocabulary.saved import PROBE
from corpus.vocabulary.special_tokens import settle_special_tokens, special_token_ids
from corpus.vocabulary.wordpiece import WordPieceTable, is_wordpiece

# One text of so many is tokenised twice as a check: a few tenths of a per cent of all text
_SAMPLE_EVERY = 256
_SAMPLE_CHARACTERS = 1000
_SETTINGS_OF_BERT = ("do_lower_case", "strip_accents", "tokenize_chinese_chars")


def load_tokenizer(name: str) -> Any:
    """Load a fast tokenizer from a folder or hub id. Code in the folder or repository is never run.

    Raises ValueError if it cannot be loaded, has no fast (Rust) backend or no vocabulary, splits text by Python code,
    lacks special tokens that rows need (corpus/vocabulary/special_tokens.py), has two pieces with one id, or is of a
    class that splits text otherwise than the folder's tokenizer.json.
    """
    if not Path(name).exists() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise ValueError(f"tokenizer: there is no folder {name!r}")  # such a path is no hub id: do not ask the hub
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # the library raises a dozen types for a missing folder or id
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"tokenizer {name!r}: not a folder or hub id that can be loaded: {reason}") from error
    if not tokenizer.is_fast:
        raise ValueError(f"tokenizer {name!r}: has no fast version (tokenizer.json); convert it first")
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # transformers makes one up for a folder without
        raise ValueError(
            f"tokenizer {name!r}: has no vocabulary (tokenizer.json, vocab.txt or sentencepiece.bpe.model)"
        )
    state = _state(name, tokenizer)
    own = state["model"]
    if own["type"] == "WordPiece" and tokenizer.unk_token not in (None, *own["vocab"]):
        raise ValueError(
            f"tokenizer {name!r}: its vocabulary lacks {tokenizer.unk_token}; is its vocab.txt whole, and its "
            "unk_token the one that is there?"
        )
    settle_special_tokens(name, tokenizer, state)
    try:
        pieces_by_id(tokenizer)
    except ValueError as error:
        raise ValueError(f"tokenizer {name!r}: {error}") from error
    _check_file(name, tokenizer)
    return tokenizer


def _state(name: str, tokenizer: Any) -> dict[str, Any]:
    """Return the content of tokenizer.json. Raise ValueError if there cannot be such a file: RoFormer's calls jieba."""
    try:
        return json.loads(tokenizer.backend_tokenizer.to_str())
    except Exception as error:  # the library raises Exception itself
        raise ValueError(
            f"tokenizer {name!r}: {type(tokenizer).__name__} splits text by Python code, which no tokenizer.json can "
            "hold; take a model with a plain tokenizer, such as junnyu/roformer_chinese_char_base instead of "
            "junnyu/roformer_chinese_base"
        ) from error


def _check_file(name: str, tokenizer: Any) -> None:
    """Compare the class that was loaded with the folder's tokenizer.json.

    transformers builds some families' tokenizers anew, from their pieces alone: a cased vocabulary is then lowercased.
    Where tokenizer_config.json names a class, another splitting is warned of; where nothing does, ValueError. What it
    says of case is meant.
    """
    path, settings = Path(name) / "tokenizer.json", Path(name) / "tokenizer_config.json"
    told = settings.read_text(encoding="utf-8") if settings.is_file() else ""
    if not path.is_file() or any(key in told for key in _SETTINGS_OF_BERT):
        return
    plain = Tokenizer.from_file(str(path))
    for text in PROBE:
        found, wanted = (one.encode(text, add_special_tokens=False) for one in (tokenizer.backend_tokenizer, plain))
        if found.ids != wanted.ids:
            said = (
                f"tokenizer {name!r}: transformers reads it as {type(tokenizer).__name__}, which splits {text[:20]!r} "
                f"otherwise than its tokenizer.json ({found.tokens[:4]}, not {wanted.tokens[:4]}); write "
                '"tokenizer_class": "PreTrainedTokenizerFast" and cls_token, sep_token, pad_token, unk_token and '
                "mask_token into its tokenizer_config.json, or do_lower_case if that is meant"
            )
            if "tokenizer_class" not in told:
                raise ValueError(said)
            warnings.warn(said, stacklevel=3)
            return


class UnequalIds(Exception):
    """The fast path and the tokenizer encode a text differently: all results of the fast path must be discarded."""


class TextEncoder:
    """Encodes plain text. A spelling such as `[SEP]` in a text never becomes a special token; only unk occurs.

    Args:
        tokenizer: from `load_tokenizer`.
        fast: encode Chinese WordPiece by a table, which gives the same ids many times faster.

    Attributes:
        num_ids: the highest id + 1, of added tokens too; more than there are pieces where ids have none.
        dtype: of ids: uint16, or uint32 for more than 65,536 ids.
        backend: the tokenizer of the library `tokenizers`, without special tokens, truncation and padding.
    """

    def __init__(self, tokenizer: Any, *, fast: bool = True) -> None:
        self.num_ids = num_ids(tokenizer)
        self.dtype = np.dtype(np.uint16 if self.num_ids <= 1 << 16 else np.uint32)
        self.backend = _without_special_spellings(tokenizer)
        self._table = WordPieceTable(self.backend, self.dtype) if fast and is_wordpiece(self.backend) else None

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """Return an array of ids [tokens] for each normalised text, without special tokens and never truncated.

        Raises UnequalIds if the fast path encodes a sample of the texts differently from the tokenizer.
        """
        if self._table is None:
            return self._encode_slowly(texts)
        sample = [_excerpt(text, index) for index, text in enumerate(texts) if index % _SAMPLE_EVERY == 0]
        pairs = zip(sample, self._table.encode(sample), self._encode_slowly(sample), strict=True)
        for text, ids, expected in pairs:
            if not np.array_equal(ids, expected):
                raise UnequalIds(f"the fast path for WordPiece gives other ids than the tokenizer for {text[:40]!r}")
        return self._table.encode(texts)

    def _encode_slowly(self, texts: list[str]) -> list[np.ndarray]:
        encodings = self.backend.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, dtype=self.dtype) for encoding in encodings]


def _excerpt(text: str, index: int) -> str:
    """A piece of a text, short enough to be tokenised twice; not always the beginning."""
    start = index * _SAMPLE_CHARACTERS % max(len(text) - _SAMPLE_CHARACTERS, 1)
    return text[start : start + _SAMPLE_CHARACTERS]


def _without_special_spellings(tokenizer: Any) -> Tokenizer:
    """The backend with a NUL in the spellings of its special tokens: normalised text has none, so it never matches.

    `encode_special_tokens` alone is not enough: a unigram model has `<s>` as a piece and finds it in text.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    special = {entry["content"] for entry in state["added_tokens"] if entry["special"]} - {tokenizer.unk_token}
    for entry in state["added_tokens"]:
        if entry["content"] in special:
            entry["content"] = "\0" + entry["content"]
    vocab = state["model"]["vocab"]
    if merges := state["model"].get("merges"):  # that make a special token would name a piece that is not there
        state["model"]["merges"] = [pair for pair in merges if "".join(pair) not in special]
    if isinstance(vocab, dict):
        state["model"]["vocab"] = {_respell(piece, special): index for piece, index in vocab.items()}
    else:
        state["model"]["vocab"] = [[_respell(piece, special), score] for piece, score in vocab]
    state |= {"post_processor": None, "truncation": None, "padding": None}
    backend = Tokenizer.from_str(json.dumps(state))
    backend.encode_special_tokens = True
    return backend


def _respell(piece: str, special: set[str]) -> str:
    return "\0" + piece if piece in special else piece


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Return a SHA-256 of what the tokenizer does, not of its files: equal for a folder and its copy on the hub.

    Covers every piece by id, the special ids, and the ids of probe texts, so that another normaliser differs too. Ids
    without a piece count as their placeholders, so that a saved tokenizer is equal to the one it was saved from.
    """
    tokens = pieces_by_id(tokenizer)
    probe = [ids.tolist() for ids in TextEncoder(tokenizer, fast=False).encode(list(PROBE))]
    state = [tokens, sorted(special_token_ids(tokenizer).items()), probe]
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()
