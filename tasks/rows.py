"""Encoding of examples as rows of token ids, with the characters of each token for decoding predictions.

Shapes: L tokens of one row; rows are as long as their text, up to `row_tokens`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tasks.config import TaskConfig
from tasks.examples import Classified, Example, Question, Tagged

Tokenizer = Any  # a fast tokenizer of transformers
IGNORED = -100  # torch's cross-entropy ignores this label


@dataclass(frozen=True)
class Row:
    """One row of the model's input.

    Attributes:
        input_ids, token_type_ids: [L].
        labels: {"labels": the class, or the tag of every token [L]}, or {"start_positions", "end_positions"}.
        example: index of its example; a question about a long text has several rows.
        offsets: for entities and reading, the characters (start, end) of the text for each token, None for other
            tokens; [L].
    """

    input_ids: list[int]
    token_type_ids: list[int]
    labels: dict[str, int | list[int]]
    example: int
    offsets: tuple[tuple[int, int] | None, ...] = ()


@dataclass(frozen=True)
class EncodedExamples:
    """The rows of some examples in their order, and a message about texts cut at `row_tokens`, empty if none is."""

    rows: list[Row]
    cut: str = ""


def tags_of(types: Sequence[str]) -> list[str]:
    """Return the tags of entity types: O, and B- and I- of every type."""
    return ["O", *(f"{prefix}-{kind}" for kind in types for prefix in "BI")]


def character_tags(example: Tagged) -> list[str]:
    """Return a tag for each character of the text."""
    tags = ["O"] * len(example.text)
    for entity in example.entities:
        tags[entity.start] = f"B-{entity.type}"
        tags[entity.start + 1 : entity.end] = [f"I-{entity.type}"] * (entity.end - entity.start - 1)
    return tags


def encode(
    examples: Sequence[Example], config: TaskConfig, labels: Sequence[str], tokenizer: Tokenizer
) -> EncodedExamples:
    """Encode examples as rows of at most `row_tokens` tokens.

    A text or pair is one row; a question has a row for every window of its text.

    Args:
        labels: the task's classes or entity types; empty for reading.
        tokenizer: a fast tokenizer of transformers.
    """
    if not examples:
        return EncodedExamples([])  # a tokenizer fails on an empty list
    if config.kind == "reading":
        return _encode_questions(examples, config, tokenizer)
    if config.kind == "entities":
        return _encode_tagged(examples, config, labels, tokenizer)
    return _encode_classified(examples, config, tokenizer)


def _encode_classified(examples: Sequence[Example], config: TaskConfig, tokenizer: Tokenizer) -> EncodedExamples:
    assert all(isinstance(example, Classified) for example in examples)
    texts = [example.text for example in examples]
    pairs = None if config.columns.text_b is None else [example.text_b for example in examples]  # type: ignore[union-attr]
    encoded = tokenizer(texts, pairs, truncation="longest_first", max_length=config.row_tokens)
    types = encoded.get("token_type_ids")
    rows = [
        Row(ids, types[index] if types else [0] * len(ids), {"labels": example.label}, index)  # type: ignore[union-attr]
        for index, (example, ids) in enumerate(zip(examples, encoded["input_ids"], strict=True))
    ]
    return EncodedExamples(rows, _cut_texts(config, encoded))


def _encode_tagged(
    examples: Sequence[Example], config: TaskConfig, types: Sequence[str], tokenizer: Tokenizer
) -> EncodedExamples:
    """Encode texts with the usual tokens, each with the tag of its first character.

    A unigram token may cross the boundary of an entity, which is then lost (6 % of CLUENER's with XLM-R's tokenizer).
    A token per character would lose none, but such a model was never trained on that (bench/results/first_students.md).
    """
    tags = {tag: index for index, tag in enumerate(tags_of(types))}
    texts = [example.text for example in examples if isinstance(example, Tagged)]
    encoded = tokenizer(texts, truncation=True, max_length=config.row_tokens, return_offsets_mapping=True)
    token_types, rows = encoded.get("token_type_ids"), []
    for index, (example, ids) in enumerate(zip(examples, encoded["input_ids"], strict=True)):
        assert isinstance(example, Tagged)
        offsets, characters = characters_of(encoded["offset_mapping"][index], example.text), character_tags(example)
        labels = [tags[characters[offset[0]]] if offset else IGNORED for offset in offsets]
        rows.append(Row(ids, token_types[index] if token_types else [0] * len(ids), {"labels": labels}, index, offsets))
    return EncodedExamples(rows, _cut_texts(config, encoded))


def _cut_texts(config: TaskConfig, encoded: Any) -> str:
    num_cut = sum(bool(encoding.overflowing) for encoding in encoded.encodings)
    message = f"{config.name}: {num_cut:,} of {len(encoded.encodings):,} texts are cut at {config.row_tokens} tokens"
    return message if num_cut else ""


def characters_of(offsets: Sequence[tuple[int, int]], text: str) -> tuple[tuple[int, int] | None, ...]:
    """Return the characters (start, end) of each token, without leading spaces; None for a token without any.

    Tokens do not share characters: if several claim one, as with a unigram's marker of a space, the last one gets it.
    """
    parts: list[tuple[int, int] | None] = []
    limit = max((end for _, end in offsets), default=0)
    for start, end in reversed(offsets):
        end = min(end, limit)
        start += len(text[start:end]) - len(text[start:end].lstrip())
        parts.append((start, end) if start < end else None)
        limit = start if start < end else limit
    return tuple(reversed(parts))


def _encode_questions(examples: Sequence[Example], config: TaskConfig, tokenizer: Tokenizer) -> EncodedExamples:
    """Encode questions with windows over their texts. Windows without the answer have the first token as answer."""
    max_tokens, num_cut = config.row_tokens // 4, 0  # of the question, to leave room for the text
    rows = []
    for index, example in enumerate(examples):
        assert isinstance(example, Question)
        question = _beginning(example.question, max_tokens, tokenizer)
        num_cut += question != example.question
        encoded = tokenizer(
            question,
            example.text,
            truncation="only_second",
            max_length=config.row_tokens,
            stride=config.window_stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        answer_start, words = example.answers[0]
        for window, ids in enumerate(encoded["input_ids"]):
            in_text = [part == 1 for part in encoded.sequence_ids(window)]
            spans = zip(in_text, encoded["offset_mapping"][window], strict=True)
            offsets = tuple(tuple(span) if inside and span[1] > span[0] else None for inside, span in spans)
            start, end = _tokens_of(offsets, answer_start, answer_start + len(words))
            types = encoded["token_type_ids"][window] if "token_type_ids" in encoded else [0] * len(ids)
            rows.append(Row(ids, types, {"start_positions": start, "end_positions": end}, index, offsets))
    message = f"{config.name}: {num_cut:,} of {len(examples):,} questions are cut at {max_tokens} tokens"
    return EncodedExamples(rows, message if num_cut else "")


def _beginning(text: str, max_tokens: int, tokenizer: Tokenizer) -> str:
    """Return the beginning of a text, of at most `max_tokens` tokens."""
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return text if len(offsets) <= max_tokens else text[: offsets[max_tokens - 1][1]]


def _tokens_of(offsets: Sequence[tuple[int, int] | None], start: int, end: int) -> tuple[int, int]:
    """Return the first and last token of characters start to end; (0, 0) if not all of them are in this window."""
    inside = [index for index, offset in enumerate(offsets) if offset and offset[0] < end and offset[1] > start]
    text_offsets = [offset for offset in offsets if offset]
    if not inside or text_offsets[0][0] > start or text_offsets[-1][1] < end:
        return 0, 0
    return inside[0], inside[-1]
