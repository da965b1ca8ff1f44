"""Examples as token ids, with what is needed to turn a model's answers back into characters.

Shapes: L tokens of one row; rows are as long as their text, up to `row_tokens`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tasks.config import TaskConfig
from tasks.examples import Classified, Example, Question, Tagged

Tokenizer = Any  # a fast tokenizer of transformers
IGNORED = -100  # torch's cross-entropy leaves it out


@dataclass(frozen=True)
class Row:
    """One row of the model's input.

    Attributes:
        input_ids, token_type_ids: [L].
        labels: {"labels": class or tag of every token [L]}, or {"start_positions", "end_positions"}.
        example: which example it is of; a long text to read has several rows.
        offsets: entities and reading, characters of the text that each token stands for, None outside the text.
    """

    input_ids: list[int]
    token_type_ids: list[int]
    labels: dict[str, int | list[int]]
    example: int
    offsets: tuple[tuple[int, int] | None, ...] = ()


@dataclass(frozen=True)
class EncodedExamples:
    """The rows of some examples in their order, and a sentence on what `row_tokens` cut off, empty if nothing."""

    rows: list[Row]
    cut: str = ""


def tags_of(types: Sequence[str]) -> list[str]:
    """O, and B- and I- of every type."""
    return ["O", *(f"{prefix}-{kind}" for kind in types for prefix in "BI")]


def character_tags(example: Tagged) -> list[str]:
    """A tag a character."""
    tags = ["O"] * len(example.text)
    for entity in example.entities:
        tags[entity.start] = f"B-{entity.type}"
        tags[entity.start + 1 : entity.end] = [f"I-{entity.type}"] * (entity.end - entity.start - 1)
    return tags


def encode(
    examples: Sequence[Example], config: TaskConfig, labels: Sequence[str], tokenizer: Tokenizer
) -> EncodedExamples:
    """Encode examples as rows of at most `row_tokens` tokens; `labels` are a task's classes or entity types."""
    if not examples:
        return EncodedExamples([])  # a tokenizer fails on none
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
    """The tokens that the model was pretrained on, each with the tag of the first character it stands for.

    A unigram's piece may reach over the edge of an entity, which is lost then (6 % of CLUENER's under XLM-R's pieces);
    a token a character loses none, but is text such a model never saw (bench/results/first_students.md).
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
    said = f"{config.name}: cut at {config.row_tokens} tokens: {num_cut:,} of {len(encoded.encodings):,} texts"
    return said if num_cut else ""


def characters_of(offsets: Sequence[tuple[int, int]], text: str) -> tuple[tuple[int, int] | None, ...]:
    """The characters of each token without spaces before them, None for one without any.

    No two tokens have one in common: what several claim, as a unigram's mark of a space does, is the last one's.
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
    """Windows over the text, the question before each; one that does not hold the answer points at the first token."""
    most, num_cut = config.row_tokens // 4, 0  # of the question, or nothing of the text would fit
    rows = []
    for index, example in enumerate(examples):
        assert isinstance(example, Question)
        question = _beginning(example.question, most, tokenizer)
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
            of_text = [part == 1 for part in encoded.sequence_ids(window)]
            places = zip(of_text, encoded["offset_mapping"][window], strict=True)
            offsets = tuple(tuple(offset) if there and offset[1] > offset[0] else None for there, offset in places)
            start, end = _tokens_of(offsets, answer_start, answer_start + len(words))
            types = encoded["token_type_ids"][window] if "token_type_ids" in encoded else [0] * len(ids)
            rows.append(Row(ids, types, {"start_positions": start, "end_positions": end}, index, offsets))
    said = f"{config.name}: cut at {most} tokens: {num_cut:,} of {len(examples):,} questions"
    return EncodedExamples(rows, said if num_cut else "")


def _beginning(text: str, most: int, tokenizer: Tokenizer) -> str:
    """As much of the text as its first `most` tokens stand for."""
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return text if len(offsets) <= most else text[: offsets[most - 1][1]]


def _tokens_of(offsets: Sequence[tuple[int, int] | None], start: int, end: int) -> tuple[int, int]:
    """First and last token of characters start to end; (0, 0) where they do not all lie in this window."""
    inside = [index for index, offset in enumerate(offsets) if offset and offset[0] < end and offset[1] > start]
    there = [offset for offset in offsets if offset]
    if not inside or there[0][0] > start or there[-1][1] < end:
        return 0, 0
    return inside[0], inside[-1]
