"""Encoding of examples as rows of token ids, with the characters of each token for decoding predictions.

Shapes: L tokens of one row; rows are as long as their text, up to `row_tokens`.
"""

from dataclasses import dataclass, replace
from typing import Any, Protocol

Tokenizer = Any  # a fast tokenizer of transformers
IGNORED = -100  # torch's cross-entropy ignores this label: there is nothing to predict
UNLABELLED = -101  # there is something to predict, for the teacher and the student, but no label for it


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
    """The rows of some examples in their order; how many texts are cut, and a message on that, empty if none is."""

    rows: list[Row]
    num_cut: int = 0
    cut: str = ""


def without_labels(row: Row) -> Row:
    """Return a row with UNLABELLED in the place of its labels: a teacher's predictions are all that is learned."""

    def hidden(label: int) -> int:
        return IGNORED if label == IGNORED else UNLABELLED

    labels = {name: [*map(hidden, one)] if isinstance(one, list) else hidden(one) for name, one in row.labels.items()}
    return replace(row, labels=labels)


def count_cut(encoded: Any) -> int:
    """Return the number of texts that a tokenizer cut."""
    return sum(bool(encoding.overflowing) for encoding in encoded.encodings)


def cut_message(config: TaskLimits, num_cut: int, num_texts: int) -> str:
    """Return a message on how many texts are cut at `row_tokens`; empty if none."""
    message = f"{config.name}: {num_cut:,} of {num_texts:,} texts are cut at {config.row_tokens} tokens"
    return message if num_cut else ""
