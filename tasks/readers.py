"""Reading of examples from CLUE's own files, and from a user's labelled JSON lines, tables or CSV.

Every problem is a ValueError that names the file and the line or question; nothing is left out silently.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tasks.config import Column, TaskConfig
from tasks.examples import Classified, Entity, Example, Question, Tagged, text_of
from tasks.record_files import Record, read_records, read_text

_NUM_SHOWN = 20  # labels in a summary


@dataclass(frozen=True)
class TaskData:
    """The examples of a task, its labels, and facts that matter for its scores."""

    labels: tuple[str, ...]  # classes, or types of entities; empty for reading
    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    num_ignored: int  # records whose label is one of `ignored_labels`
    num_moved: int  # questions with an answer that is not at the position given in the file
    num_overlapping: int  # development examples whose text is also in training
    num_nested: int = 0  # entities that overlap a longer one

    @property
    def summary(self) -> str:
        """The numbers of examples and labels, and facts that matter for the scores, in one line."""
        counts = {
            "records with an ignored label left out": self.num_ignored,
            "answers moved to the position of their words": self.num_moved,
            "entities left out that overlap longer ones": self.num_nested,
            "development texts that are also in training": self.num_overlapping,
            "examples with an empty text, kept": sum(
                not all(text.strip() for text in text_of(example)) for example in (*self.train, *self.dev)
            ),
        }
        parts = [f"{len(self.train):,} training examples, {len(self.dev):,} development examples"]
        if self.labels:
            more = ", ..." if len(self.labels) > _NUM_SHOWN else ""
            parts.append(f"{len(self.labels)} labels ({', '.join(self.labels[:_NUM_SHOWN])}{more})")
        return "; ".join([*parts, *(f"{number:,} {what}" for what, number in counts.items() if number)])


@dataclass(frozen=True)
class _Parsed:
    """A record with its labels by name: their indices are known only after all records are read."""

    where: str
    labels: tuple[str, ...]
    example: Classified | Tagged  # with class -1
    num_nested: int = 0


def read_task(config: TaskConfig) -> TaskData:
    """Read the training and development files of a task.

    Raise ValueError naming the file and line if a file cannot be read or a record, label or span cannot be used.
    """
    if config.kind == "reading":
        return _read_reading(config)
    files = [list(read_records(Path(path), config)) for path in (config.train, config.dev)]
    kept = [[record for record in records if not _is_ignored(record, config)] for records in files]
    parsed = [[_parse(record, config) for record in records] for records in kept]
    labels = tuple(config.labels or sorted({label for one in parsed[0] for label in one.labels}))
    _check_blanks(labels, config.train)
    if not labels:
        missing = "entities" if config.kind == "entities" else "labelled examples"
        raise ValueError(f"{config.train}: contains no {missing}")
    train, dev = (tuple(_example(one, labels) for one in records) for records in parsed)
    for path, examples in ((config.train, train), (config.dev, dev)):
        if not examples:
            raise ValueError(f"{path}: contains no labelled examples")
    if config.kind != "entities" and len(labels) < 2:
        raise ValueError(f"{config.train}: a task needs at least two classes, but all labels are {', '.join(labels)}")
    if config.scored_by == "f1" and len(labels) > 2:
        raise ValueError(f"{config.train}: metric f1 needs two classes, got {len(labels)}; use macro_f1 instead")
    num_ignored = sum(map(len, files)) - sum(map(len, kept))
    num_nested = sum(one.num_nested for records in parsed for one in records)
    return TaskData(labels, train, dev, num_ignored, 0, _overlap(train, dev), num_nested)


def _check_blanks(labels: tuple[str, ...], path: str) -> None:
    bare: dict[str, str] = {}
    for label in labels:
        if label.strip() in bare:
            raise ValueError(f"{path}: labels {bare[label.strip()]!r} and {label!r} differ only by blanks")
        bare[label.strip()] = label


def _overlap(train: tuple[Example, ...], dev: tuple[Example, ...]) -> int:
    seen = {text_of(example) for example in train}
    return sum(text_of(example) in seen for example in dev)


def _text(where: str, name: Column, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where}: {name} must be text, got {json.dumps(value, ensure_ascii=False)[:60]}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}: {name} has half of a character (a lone surrogate) at {error.start}") from None
    return value


def _index(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is not a position in a text")
    return value


def _label(record: Record, column: Column) -> str:
    label = _value(record, column, joined=False)
    if not label.strip():
        raise ValueError(f"{record[0]}: {column} is empty; to leave out such records set ignored_labels to {[label]}")
    return label


def _value(record: Record, column: Column, joined: bool = True) -> str:
    where, values = record
    try:
        value = values[column]
    except (KeyError, TypeError, IndexError):
        found = ", ".join(map(str, values)) if isinstance(values, dict) else type(values).__name__
        raise ValueError(f"{where}: has no {column}; it has {found}") from None
    if joined and isinstance(value, list) and all(isinstance(word, str) for word in value):
        value = " ".join(value)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return _text(where, column, value)


def _is_ignored(record: Record, config: TaskConfig) -> bool:
    return bool(config.ignored_labels) and _value(record, config.columns.label, joined=False) in config.ignored_labels


def _parse(record: Record, config: TaskConfig) -> _Parsed:
    where, columns = record[0], config.columns
    if config.kind == "entities":
        spans = _spans(record)
        tagged = _tagged(record, spans)
        types = tuple(entity.type for entity in tagged.entities)
        return _Parsed(where, types, tagged, len(spans) - len(types))
    label = (_label(record, columns.label),)
    if config.kind == "coreference":
        return _Parsed(where, label, Classified(_marked(record), None, -1))
    text_b = None if columns.text_b is None else _value(record, columns.text_b)
    return _Parsed(where, label, Classified(_value(record, columns.text), text_b, -1))


def _example(parsed: _Parsed, labels: tuple[str, ...]) -> Example:
    if unknown := [label for label in parsed.labels if label not in labels]:
        raise ValueError(f"{parsed.where}: unknown label {unknown[0]!r}; the task has {', '.join(labels)}")
    if isinstance(parsed.example, Tagged):
        return parsed.example
    return replace(parsed.example, label=labels.index(parsed.labels[0]))


def _tagged(record: Record, spans: list[tuple[Entity, str]]) -> Tagged:
    """Return a text with its entities. Of overlapping entities only the longest is kept, the first of equals."""
    where, values = record
    text = _text(where, "text", values.get("text"))
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
            (Entity(_index(first), _index(last) + 1, kind), words)
            for kind, found in values["label"].items()
            for words, places in found.items()
            for first, last in places
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        form = '{"text", "label": {type: {words: [[first, last]]}}}'
        raise ValueError(f"{where}: must be like {form}: {error}") from None


def _marked(record: Record) -> str:
    """Return CLUEWSC's text with _ around its first span and [ ] around its second, as in CLUE's own baseline."""
    where, values = record
    try:
        text, target = values["text"], values["target"]
        marks = (1, ("_", "_")), (2, ("[", "]"))
        spans = [(_index(target[f"span{n}_index"]), str(target[f"span{n}_text"]), pair) for n, pair in marks]
    except (KeyError, TypeError) as error:
        form = '{"text", "target": {"span1_index", "span1_text", ..}}'
        raise ValueError(f"{where}: must be like {form}: {error}") from None
    text, inserts = _text(where, "text", text), []
    for start, words, (opening, closing) in spans:
        end = start + len(words)
        if start < 0 or text[start:end] != words:
            raise ValueError(f"{where}: span {words!r} is not the text at position {start}")
        # At the same position, closing marks come before opening ones; of nested spans the outer opens first.
        inserts += [(start, 1, -end, opening), (end, 0, -start, closing)]
    for place, *_, mark in sorted(inserts, reverse=True):
        text = f"{text[:place]}{mark}{text[place:]}"
    return text


def _read_questions(path: Path) -> Iterator[Question]:
    """Yield the questions of a CMRC2018 file, in SQuAD's format: data -> paragraphs -> context and qas."""
    text = read_text(path)
    try:
        for part in (part for article in json.loads(text)["data"] for part in article["paragraphs"]):
            for qa in part["qas"]:
                where = f"{path}: question {qa['id']}"
                answers = tuple((_index(one["answer_start"]), str(one["text"])) for one in qa["answers"])
                question, context = (_text(where, name, of[name]) for name, of in (("question", qa), ("context", part)))
                yield Question(str(qa["id"]), question, context, answers)
    except (KeyError, TypeError, RecursionError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not in the format of CMRC2018: {type(error).__name__}: {error}") from error


def _read_reading(config: TaskConfig) -> TaskData:
    train, dev = (list(_read_questions(Path(path))) for path in (config.train, config.dev))
    for path, questions in ((config.train, train), (config.dev, dev)):
        if repeated := [name for name, count in Counter(one.id for one in questions).items() if count > 1]:
            raise ValueError(f"{path}: question id {repeated[0]} occurs more than once")
        if unanswered := [one.id for one in questions if not one.answers]:
            raise ValueError(f"{path}: question {unanswered[0]} has no answer")
        if not questions:
            raise ValueError(f"{path}: contains no questions")
    placed = tuple(_placed(question, config.train) for question in train)
    moved = sum(before != after for before, after in zip(train, placed, strict=True))
    return TaskData((), placed, tuple(dev), 0, moved, _overlap(placed, tuple(dev)))


def _placed(question: Question, path: str) -> Question:
    """Return a question with every answer's position corrected to the nearest one with its words.

    Some positions in CMRC2018 are off by a character. Only training needs positions; scores compare words.
    """
    answers = []
    for start, words in question.answers:
        places = [match.start() for match in re.finditer(re.escape(words), question.text)] if words else []
        if not places:
            raise ValueError(f"{path}: question {question.id}: the answer {words!r} is not in its text")
        answers.append((min(places, key=lambda place: abs(place - start)), words))
    return replace(question, answers=tuple(answers))
