"""Entities of a text: a tag for each character, learned by tokens."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor
from transformers import AutoModelForTokenClassification

from tasks.examples import Entity, Example, Tagged
from tasks.kinds.kind import Columns, TaskSettings
from tasks.kinds.record_files import Record
from tasks.kinds.records import Parsed, RecordKind, check_index, check_text
from tasks.metrics import score_entities
from tasks.rows import IGNORED, EncodedExamples, Row, Tokenizer, count_cut, cut_message


class Entities(RecordKind):
    """CLUENER's records: {"text", "label": {type: {words: [[first, last]]}}}, last included."""

    metrics = ("entity_macro_f1", "entity_f1")
    auto_class = AutoModelForTokenClassification
    formats = ("json_lines", "tags")
    fixed_keys = ("columns", "ignored_labels")
    min_labels = 1
    label_noun = "entities"

    def example(self, record: Record, columns: Columns) -> Tagged:
        where, values = record
        if not isinstance(values, dict):
            raise ValueError(f'{where}: must be like {{"text"}}, got {type(values).__name__}')
        return Tagged(check_text(where, "text", values.get("text", values.get(columns.text))), ())

    def parse(self, record: Record, columns: Columns) -> Parsed:
        spans = _spans(record)
        tagged = _tagged(record, spans)
        types = tuple(entity.type for entity in tagged.entities)
        return Parsed(record[0], types, tagged, len(spans) - len(types))

    def encode(
        self, examples: Sequence[Example], config: TaskSettings, labels: Sequence[str], tokenizer: Tokenizer
    ) -> EncodedExamples:
        """Encode texts with the usual tokens, each with the tag of its first character.

        A unigram token may cross the boundary of an entity, which is then lost (6 % of CLUENER's with XLM-R's
        tokenizer). A token per character would lose none, but no such model was trained on that
        (bench/results/first_students.md).
        """
        tags = {tag: index for index, tag in enumerate(tags_of(labels))}
        texts = [example.text for example in examples if isinstance(example, Tagged)]
        encoded = tokenizer(texts, truncation=True, max_length=config.row_tokens, return_offsets_mapping=True)
        token_types, rows = encoded.get("token_type_ids"), []
        for index, (example, ids) in enumerate(zip(examples, encoded["input_ids"], strict=True)):
            assert isinstance(example, Tagged)
            offsets, characters = characters_of(encoded["offset_mapping"][index], example.text), character_tags(example)
            tag_ids = [tags[characters[offset[0]]] if offset else IGNORED for offset in offsets]
            rows.append(
                Row(ids, token_types[index] if token_types else [0] * len(ids), {"labels": tag_ids}, index, offsets)
            )
        num_cut = count_cut(encoded)
        return EncodedExamples(rows, num_cut, cut_message(config, num_cut, len(examples)))

    def score(
        self, logits: Sequence[Tensor], rows: Sequence[Row], examples: Sequence[Example], labels: Sequence[str]
    ) -> dict[str, float]:
        tagged = [example for example in examples if isinstance(example, Tagged)]
        predicted = [tags for tags, _ in _predicted(logits, rows, tagged, labels)]
        return score_entities([character_tags(example) for example in tagged], predicted)

    def answers(
        self, logits: Sequence[Tensor], rows: Sequence[Row], examples: Sequence[Example], labels: Sequence[str]
    ) -> list[dict[str, Any]]:
        """`label`, as CLUENER has it: {type: {words: [[first, last]]}}, last included."""
        tagged = [example for example in examples if isinstance(example, Tagged)]
        found = _predicted(logits, rows, tagged, labels)
        return [
            {"label": _by_type(example.text, ((one, [one.start, one.end - 1]) for one in entities_in(tags)))}
            for example, (tags, _) in zip(tagged, found, strict=True)
        ]

    def probabilities(
        self, logits: Sequence[Tensor], rows: Sequence[Row], examples: Sequence[Example], labels: Sequence[str]
    ) -> list[Any]:
        """In the form of the answers, for each entity the mean probability of its characters' tags."""
        tagged = [example for example in examples if isinstance(example, Tagged)]
        values = []
        for example, (tags, sure) in zip(tagged, _predicted(logits, rows, tagged, labels), strict=True):
            means = ((one, sum(sure[one.start : one.end]) / (one.end - one.start)) for one in entities_in(tags))
            values.append(_by_type(example.text, ((one, round(mean, 6)) for one, mean in means)))
        return values

    def labels_of(self, outputs: Sequence[str]) -> tuple[str, ...]:
        """The types of these tags, if they are all tags of some types."""
        types = [name.removeprefix("B-") for name in outputs if name.startswith("B-")]
        return tuple(types) if tags_of(types) == list(outputs) else ()

    def outputs(self, labels: Sequence[str]) -> list[str]:
        """The tags of all entity types."""
        return tags_of(labels)


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


def entities_in(tags: Sequence[str]) -> list[Entity]:
    """Return the entities that tags of characters stand for, as seqeval counts them.

    An I- that does not continue an entity of its type begins one.
    """
    found: list[Entity] = []
    before = "O"
    for place, tag in enumerate(tags):
        if tag.startswith("I-") and before[2:] == tag[2:]:
            found[-1] = Entity(found[-1].start, place + 1, found[-1].type)
        elif tag != "O":
            found.append(Entity(place, place + 1, tag[2:]))
        before = tag
    return found


def _predicted(
    logits: Sequence[Tensor], rows: Sequence[Row], examples: Sequence[Tagged], labels: Sequence[str]
) -> Iterator[tuple[list[str], list[float]]]:
    """Yield the tag of every character of a text, and the probability of its token's tag, 1 outside tokens."""
    names = tags_of(labels)
    for values, row, example in zip(logits, rows, examples, strict=True):
        tags = spread_tags([names[index] for index in values.argmax(-1).tolist()], row, len(example.text))
        sure = [1.0] * len(example.text)
        for offset, value in zip(row.offsets, values.double().softmax(-1).amax(-1).tolist(), strict=True):
            if offset:
                sure[slice(*offset)] = [value] * (offset[1] - offset[0])
        yield tags, sure


def _by_type(text: str, entities: Iterable[tuple[Entity, Any]]) -> dict[str, dict[str, list[Any]]]:
    """Return {type: {words: [value of each entity with them]}}."""
    found: dict[str, dict[str, list[Any]]] = {}
    for entity, value in entities:
        found.setdefault(entity.type, {}).setdefault(text[entity.start : entity.end], []).append(value)
    return found


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


def spread_tags(tags: Sequence[str], row: Row, num_characters: int) -> list[str]:
    """Return a tag for each character from a tag for each token; text beyond the row is not an entity.

    Characters without a token, such as spaces, belong to an entity that continues after them.
    """
    spread, before = ["O"] * num_characters, 0
    for tag, offset in zip(tags, row.offsets, strict=True):
        if offset is None:
            continue
        start, end = offset
        inside = "O" if tag == "O" else f"I-{tag[2:]}"
        spread[start:end] = [tag, *[inside] * (end - start - 1)]
        if before and tag.startswith("I-") and spread[before - 1].endswith(tag[1:]):
            spread[before:start] = [tag] * (start - before)
        before = end
    return spread


def _tagged(record: Record, spans: list[tuple[Entity, str]]) -> Tagged:
    """Return a text with its entities. Of overlapping entities only the longest is kept, the first of equals."""
    where, values = record
    text = check_text(where, "text", values.get("text"))
    for entity, words in spans:
        if not 0 <= entity.start < entity.end <= len(text):
            raise ValueError(
                f"{where}: {entity.type} {words!r} at {entity.start} to {entity.end - 1} is outside the text of "
                f"{len(text)} characters"
            )
        if text[entity.start : entity.end] != words:
            raise ValueError(f"{where}: {entity.type} {words!r} is not the text at position {entity.start}")
    kept: list[Entity] = []
    for entity, _ in sorted(spans, key=lambda span: span[0].start - span[0].end):
        if all(entity.end <= other.start or other.end <= entity.start for other in kept):
            kept.append(entity)
    return Tagged(text, tuple(sorted(kept, key=lambda entity: entity.start)))


def _spans(record: Record) -> list[tuple[Entity, str]]:
    """Return the entities, with their words, of CLUENER's {"text", "label": {type: {words: [[first, last], ..]}}}."""
    where, values = record
    try:
        return [
            (Entity(check_index(first), check_index(last) + 1, kind), words)
            for kind, found in values["label"].items()
            for words, places in found.items()
            for first, last in places
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        form = '{"text", "label": {type: {words: [[first, last]]}}}'
        is_other = isinstance(error, KeyError | AttributeError)
        found = f"got {json.dumps(values, ensure_ascii=False)[:80]}; tags are format tags" if is_other else error
        raise ValueError(f"{where}: must be like {form}: {found}") from None
