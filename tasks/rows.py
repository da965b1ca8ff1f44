"""Encoding of examples as rows of token ids, with the characters of each token for decoding predictions.

Shapes: L tokens of one row; rows are as long as their text, up to `row_tokens`.
"""

from dataclasses import dataclass
from typing import Any, Protocol

Tokenizer = Any  # a fast tokenizer of transformers
IGNORED = -100  # torch's cross-entropy ignores this label


@dataclass(frozen=True)
class Row:
    """One row of the model's input.

    Attributes:
        input_ids, token_type_ids: [L].
        labels: {"labels": the class, the right choice, or the tag of every token [L]}, or {"start_positions",
            "end_positions"}.
        example: index of its example; a question about a long text has several rows.
        offsets: for entities and reading, the characters (start, end) of the text for each token, None for other
            tokens; [L].
        choices: for multiple choice, the number of tokens of each choice; `input_ids` are theirs one after another.
    """

    input_ids: list[int]
    token_type_ids: list[int]
    labels: dict[str, int | list[int]]
    example: int
    offsets: tuple[tuple[int, int] | None, ...] = ()
    choices: tuple[int, ...] = ()


class TaskLimits(Protocol):
    """A task's name and the most tokens of its rows."""

    @property
    def name(self) -> str: ...
    @property
    def row_tokens(self) -> int: ...


@dataclass(frozen=True)
class EncodedExamples:
    """The rows of some examples in their order, and a message about texts cut at `row_tokens`, empty if none is."""

    rows: list[Row]
    cut: str = ""


def cut_message(config: TaskLimits, encoded: Any) -> str:
    """Return a message on how many texts a tokenizer cut at `row_tokens`; empty if none."""
    num_cut = sum(bool(encoding.overflowing) for encoding in encoded.encodings)
    message = f"{config.name}: {num_cut:,} of {len(encoded.encodings):,} texts are cut at {config.row_tokens} tokens"
    return message if num_cut else ""
