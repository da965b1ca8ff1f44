"""Trim a tokenizer's vocabulary to the pieces that occur in a text: that text is still split into the same pieces.

Every single character is kept, or the bytes to which the tokenizer falls back, so that no other text gets unknown
tokens that it did not have before.
"""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from corpus.vocabulary.pieces import num_ids
from corpus.vocabulary.texts import text_batches

_CHARACTER = re.compile("(##)?.", re.DOTALL)
_BYTE = re.compile("<0x[0-9A-F]{2}>|▁")  # SentencePiece's space: as bytes it would not come back as a space
_UNUSED = re.compile(r"[<\[]unused_?\d+[>\]]")


def count_pieces(backend: Tokenizer, texts: Iterable[str]) -> np.ndarray:
    """Return how often each id occurs in texts, int64 [V], V the highest id + 1."""
    backend = _without_truncation(backend)
    counts = np.zeros(num_ids(backend), dtype=np.int64)
    for batch in text_batches(texts):
        encodings = backend.encode_batch_fast(batch, add_special_tokens=False)
        ids = np.concatenate([np.asarray(encoding.ids, dtype=np.int64) for encoding in encodings])
        counts += np.bincount(ids, minlength=len(counts))
    return counts


def _without_truncation(backend: Tokenizer) -> Tokenizer:
    """A copy without truncation and padding: tokenizers of sentence encoders truncate, at 128 tokens for instance."""
    backend = Tokenizer.from_str(backend.to_str())
    backend.no_truncation()
    backend.no_padding()
    return backend


def kept_ids(backend: Tokenizer, counts: np.ndarray) -> np.ndarray:
    """Return the ids to keep, ascending: pieces with a count, added tokens, unk, and what no text can do without.

    That is single characters (bytes, for byte-level BPE), or the bytes to which a model falls back for them; for BPE
    every piece from which a kept one is merged; and for a unigram model the piece of the lowest score, from which that
    of unknown characters is derived. Added tokens that are named unused are kept only with a count.

    Raises ValueError for other kinds of models, and for BPE that marks pieces by a prefix or suffix.
    """
    state = json.loads(backend.to_str())
    model, vocabulary = state["model"], _pieces(state["model"])
    added = {token["content"]: token["id"] for token in state["added_tokens"]}
    kept = {index for token, index in added.items() if not _UNUSED.fullmatch(token)}
    pattern = _BYTE if model.get("byte_fallback") else _CHARACTER
    kept |= {index for piece, index in vocabulary.items() if pattern.fullmatch(piece)}
    if model["type"] == "Unigram":
        scores = [score for _, score in model["vocab"]]
        kept |= {model["unk_id"], int(np.argmin(scores))}
    elif model["unk_token"] in vocabulary:
        kept.add(vocabulary[model["unk_token"]])
    kept |= set(np.flatnonzero(counts).tolist())
    if model["type"] == "BPE":
        ranks = {tuple(pair): rank for rank, pair in enumerate(model["merges"])}
        used = [piece for piece, index in vocabulary.items() if index in kept and piece not in added]
        kept |= {vocabulary[part] for piece in used for part in _merged_from(piece, ranks) if part in vocabulary}
    return np.array(sorted(kept), dtype=np.int64)


def _pieces(model: dict[str, Any]) -> dict[str, int]:
    if model["type"] == "Unigram":
        return {piece: index for index, (piece, _) in enumerate(model["vocab"])}
    if model["type"] not in ("WordPiece", "BPE"):
        raise ValueError(f"a vocabulary of the kind {model['type']} cannot be trimmed, only Unigram, WordPiece and BPE")
    if model["type"] == "BPE" and (model["continuing_subword_prefix"] or model["end_of_word_suffix"]):
        raise ValueError("a BPE vocabulary with a continuing_subword_prefix or end_of_word_suffix cannot be trimmed")
    return model["vocab"]


def _merged_from(piece: str, ranks: dict[tuple[str, ...], int]) -> Iterator[str]:
    """Yield the characters of a piece and what they are merged to on the way to it.

    Byte-pair encoding merges within a piece that stays whole as if it were alone, whatever stands around it. So these
    are all that the piece is ever made from, also where other merges give the same piece (SentencePiece's BPE).
    """
    parts = list(piece)
    yield from parts
    while len(parts) > 1:
        place = min(range(len(parts) - 1), key=lambda place: ranks.get((parts[place], parts[place + 1]), len(ranks)))
        if (parts[place], parts[place + 1]) not in ranks:
            return  # taken whole from the vocabulary (ignore_merges), or never
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
        yield parts[place]


def trim_tokenizer(backend: Tokenizer, kept: np.ndarray) -> Tokenizer:
    """Return the tokenizer with only the pieces of the ids `kept` (ascending), renumbered in that order.

    Merges stay whose parts and result are kept, in their order. Raises ValueError if an added token gets another id
    than its new one, which the library gives to those that are no pieces of the model.
    """
    state = json.loads(backend.to_str())
    new_ids = {old: new for new, old in enumerate(kept.tolist())}
    model = state["model"]
    if model["type"] == "Unigram":
        model["vocab"] = [entry for index, entry in enumerate(model["vocab"]) if index in new_ids]
        model["unk_id"] = new_ids[model["unk_id"]]
    else:
        pieces = sorted(_pieces(model).items(), key=lambda item: item[1])
        model["vocab"] = {piece: new_ids[index] for piece, index in pieces if index in new_ids}
    if model["type"] == "BPE":
        merges = model["merges"]
        model["merges"] = [pair for pair in merges if {*pair, "".join(pair)} <= model["vocab"].keys()]
    state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] in new_ids]
    for token in state["added_tokens"]:
        token["id"] = new_ids[token["id"]]
    _renumber_ends(state["post_processor"] or {}, new_ids)
    small = Tokenizer.from_str(json.dumps(state))
    for token in state["added_tokens"]:
        if (found := small.token_to_id(token["content"])) != token["id"]:
            raise ValueError(f"the added token {token['content']!r} gets the id {found} instead of {token['id']}")
    return small


def _renumber_ends(processor: dict[str, Any], new_ids: dict[int, int]) -> None:
    """Renumber `[CLS]`, `</s>` and the like in a post-processor of any kind, in place."""
    for inner in processor.get("processors", []):
        _renumber_ends(inner, new_ids)
    for token in (processor.get("special_tokens") or {}).values():
        token["ids"] = [new_ids[index] for index in token["ids"]]
    for end in ("cls", "sep"):
        if end in processor:
            processor[end][1] = new_ids[processor[end][1]]


def check_same_pieces(full: Tokenizer, small: Tokenizer, texts: Iterable[str]) -> None:
    """Raise ValueError if the trimmed tokenizer splits one of the texts differently from the full one."""
    full, small = _without_truncation(full), _without_truncation(small)
    for batch in text_batches(texts):
        pairs = zip(full.encode_batch_fast(batch), small.encode_batch_fast(batch), strict=True)
        for text, (before, after) in zip(batch, pairs, strict=True):
            if before.tokens != after.tokens:
                raise ValueError(f"the trimmed vocabulary splits a text differently: {text[:40]!r}")
