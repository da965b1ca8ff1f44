"""A tokenizer's pieces by id. Ids may lack a piece: an empty line of vocab.txt, or the first of two equal lines.

ERNIE 3.0's vocabulary has `$` as 12084 and 18005; transformers gives it the second id. The number of pieces is then
less than the number of ids, which sizes embeddings, counts and masks.
"""

import json
import warnings
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from corpus.vocabulary.vocab_file import read_vocab_file

_NAMED = 5  # examples in a message
_CASED = 0.01  # share of pieces with capitals from which on a vocabulary is cased


def pieces_of(tokenizer: Any) -> dict[str, int]:
    """Return the id of every piece, ascending, without the empty piece, to which no text is encoded."""
    found = [(index, piece) for piece, index in tokenizer.get_vocab().items() if piece]
    return {piece: index for index, piece in sorted(found)}


def num_ids(tokenizer: Any) -> int:
    """Return the highest id + 1 of a tokenizer of transformers or of tokenizers."""
    return max(pieces_of(tokenizer).values(), default=-1) + 1


def ids_without_piece(tokenizer: Any) -> list[int]:
    """Return the ids below the highest that stand for no piece, ascending."""
    return sorted(set(range(num_ids(tokenizer))) - set(pieces_of(tokenizer).values()))


def placeholders(tokenizer: Any) -> dict[str, int]:
    """Return a piece `[unusedN]` that the vocabulary does not have yet for every id without a piece."""
    vocabulary = pieces_of(tokenizer)
    unused = (name for number in count(1) if (name := f"[unused{number}]") not in vocabulary)
    return dict(zip(unused, ids_without_piece(tokenizer), strict=False))


def pieces_by_id(tokenizer: Any) -> list[str]:
    """Return the piece of every id, placeholders included. Raise ValueError for an id with two pieces."""
    pieces: dict[int, str] = {}
    for piece, index in (pieces_of(tokenizer) | placeholders(tokenizer)).items():
        if index in pieces:
            raise ValueError(
                f"{pieces[index]!r} and {piece!r} both have id {index}: the vocabulary lacks one of them, and has "
                "lines that are doubled or empty, so that the library adds it at an id in use; add it to vocab.txt"
            )
        pieces[index] = piece
    return [pieces[index] for index in sorted(pieces)]


def warn_of_vocabulary(name: str, tokenizer: Any) -> None:
    """Warn of ids without a piece, with the lines of vocab.txt that stand twice where a folder `name` has one.

    Warn too of special tokens that a WordPiece vocabulary lacks, which the library adds behind all others, and of a
    cased one that is lowercased.
    """
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    if model["type"] == "WordPiece":
        added = {token: pieces_of(tokenizer).get(token) for token in tokenizer.all_special_tokens}
        for token, index in added.items():
            if token not in model["vocab"]:
                warnings.warn(
                    f"tokenizer {name!r}: its vocabulary lacks {token}, which gets the id {index} behind all others; "
                    "if the model was trained with another, its vocab.txt is damaged, say by a lost line or by a byte "
                    "order mark before the first",
                    stacklevel=2,
                )
        _warn_of_capitals(name, tokenizer)
    missing = ids_without_piece(tokenizer)
    if not missing:
        return
    path = Path(name) / "vocab.txt"
    lines = read_vocab_file(path) if path.is_file() else []
    doubled = ", ".join(_doubled(lines)) or "doubled or empty lines of its vocab.txt, usually"
    warnings.warn(
        f"tokenizer {name!r}: {len(missing):,} of {num_ids(tokenizer):,} ids stand for no piece, such as "
        f"{', '.join(map(str, missing[:_NAMED]))} ({doubled}); their embeddings stay unused, and saved vocabularies "
        "have placeholders [unusedN] there",
        stacklevel=2,
    )


def _warn_of_capitals(name: str, tokenizer: Any) -> None:
    """Warn if text is lowercased, but not the vocabulary, and nobody said so: BERT's class does it by default."""
    normalizer = json.loads(tokenizer.backend_tokenizer.to_str())["normalizer"] or {}
    settings = Path(name) / "tokenizer_config.json"
    if not normalizer.get("lowercase") or (settings.is_file() and "do_lower_case" in settings.read_text("utf-8")):
        return
    ordinary = [piece for piece in pieces_of(tokenizer) if not piece.startswith("[")]
    capital = [piece for piece in ordinary if piece != piece.lower()]
    if len(capital) > _CASED * len(ordinary):
        warnings.warn(
            f"tokenizer {name!r}: lowercases text, but {len(capital):,} of its pieces have capitals, such as "
            f'{capital[-1]!r}; if the model is cased, write "do_lower_case": false into its tokenizer_config.json',
            stacklevel=3,
        )


def _doubled(lines: list[str]) -> Iterator[str]:
    lines = [line.rstrip() for line in lines]
    times = Counter(lines)
    if empty := times.pop("", 0):
        yield f"{empty} empty lines"
    for piece in [piece for piece, number in times.items() if number > 1][:_NAMED]:
        numbers = [str(index) for index, line in enumerate(lines) if line == piece]
        yield f"{piece!r} is {' and '.join(numbers[:_NAMED])}"
