"""Trim a tokenizer's vocabulary to the pieces that occur in a text: that text is still split into the same pieces.

Every single character is kept, so that no other text gets unknown tokens that it did not have before.
"""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from corpus.vocabulary.pieces import num_ids
from corpus.vocabulary.texts import text_batches


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
    """Return the ids to keep, ascending: pieces with a count, added tokens, unk, and single characters.

    For a unigram model the piece of the lowest score too: the score of unknown characters is derived from it. Raises
    ValueError for models other than unigram and WordPiece, from which pieces cannot be removed (BPE).
    """
    state = json.loads(backend.to_str())
    vocabulary = _pieces(state["model"])
    kept = {entry["id"] for entry in state["added_tokens"]}
    kept |= {index for piece, index in vocabulary.items() if len(piece.removeprefix("##")) == 1}
    if state["model"]["type"] == "Unigram":
        scores = [score for _, score in state["model"]["vocab"]]
        kept |= {state["model"]["unk_id"], int(np.argmin(scores))}
    else:
        kept.add(vocabulary[state["model"]["unk_token"]])
    return np.union1d(np.flatnonzero(counts), sorted(kept))


def _pieces(model: dict[str, Any]) -> dict[str, int]:
    if model["type"] == "Unigram":
        return {piece: index for index, (piece, _) in enumerate(model["vocab"])}
    if model["type"] == "WordPiece":
        return model["vocab"]
    raise ValueError(f"a vocabulary of the kind {model['type']} cannot be trimmed, only Unigram and WordPiece")


def trim_tokenizer(backend: Tokenizer, kept: np.ndarray) -> Tokenizer:
    """Return the tokenizer with only the pieces of the ids `kept` (ascending), renumbered in that order."""
    state = json.loads(backend.to_str())
    new_ids = {old: new for new, old in enumerate(kept.tolist())}
    model = state["model"]
    if model["type"] == "Unigram":
        model["vocab"] = [entry for index, entry in enumerate(model["vocab"]) if index in new_ids]
        model["unk_id"] = new_ids[model["unk_id"]]
    else:
        pieces = sorted(_pieces(model).items(), key=lambda item: item[1])
        model["vocab"] = {piece: new_ids[index] for piece, index in pieces if index in new_ids}
    for token in state["added_tokens"]:
        token["id"] = new_ids[token["id"]]
    _renumber_ends(state["post_processor"] or {}, new_ids)
    return Tokenizer.from_str(json.dumps(state))


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
