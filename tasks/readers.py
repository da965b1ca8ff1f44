"""CLUE's own files, and a user's labelled JSON lines or tables, as examples.

Every problem is a ValueError that names the file and the line (or the question); nothing is dropped in silence.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tasks.examples import Classified, Entity, Example, Question, Tagged, text_of
from tasks.settings import Column, TaskConfig


@dataclass(frozen=True)
class TaskData:
    """The examples of a task, its labels, and what a reader of its scores should know."""

    labels: tuple[str, ...]  # classes, or types of entities; empty for reading
    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    num_ignored: int  # records whose label is one of `ignored_labels`
    num_moved: int  # questions with an answer that did not stand where the file said
    num_overlapping: int  # development examples whose text also stands in training

    @property
    def remarks(self) -> str:
        """What a reader of the scores should know, in words."""
        counts = {
            "records without an agreed label left out": self.num_ignored,
            "answers moved to where their words stand": self.num_moved,
            "development texts that are also in training": self.num_overlapping,
        }
        return ", ".join(f"{number:,} {what}" for what, number in counts.items() if number) or "none in both"


Record = tuple[str, Any]  # where it stands, for messages, and its values


def read_task(config: TaskConfig) -> TaskData:
    """Read both files; ValueError for records, labels or spans that cannot be used."""
    if config.kind == "reading":
        return _read_reading(config)
    files = [list(_read_records(Path(path), config)) for path in (config.train, config.dev)]
    kept = [[record for record in records if not _is_ignored(record, config)] for records in files]
    labels = tuple(config.labels or sorted({label for record in kept[0] for label in _labels(record, config)}))
    if not labels:
        missing = "entities" if config.kind == "entities" else "labelled examples"
        raise ValueError(f"{config.train}: holds no {missing}")
    train, dev = (tuple(_example(record, config, labels) for record in records) for records in kept)
    for path, examples in ((config.train, train), (config.dev, dev)):
        if not examples:
            raise ValueError(f"{path}: holds no labelled examples")
    if config.kind != "entities" and len(labels) < 2:
        raise ValueError(f"{config.train}: a task needs at least two classes, here all are {', '.join(labels)}")
    if config.scored_by == "f1" and len(labels) > 2:
        raise ValueError(
            f"{config.train}: metric f1 wants two classes, here are {len(labels)}; macro_f1 takes any number"
        )
    num_ignored = sum(map(len, files)) - sum(map(len, kept))
    return TaskData(labels, train, dev, num_ignored, 0, _overlap(train, dev))


def _overlap(train: tuple[Example, ...], dev: tuple[Example, ...]) -> int:
    seen = {text_of(example) for example in train}
    return sum(text_of(example) in seen for example in dev)


def _read_records(path: Path, config: TaskConfig) -> Iterator[Record]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from error
    if config.format == "table":
        yield from _read_table(path, text, config.has_header)
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield f"{path}:{number}", json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}:{number}: not JSON: {error}") from error


def _read_table(path: Path, text: str, has_header: bool) -> Iterator[Record]:
    lines = text.splitlines()
    rows = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    header = next(rows, []) if has_header else None
    for number, row in enumerate(rows, 2 if has_header else 1):
        if header is not None and len(row) != len(header):
            raise ValueError(f"{path}:{number}: {len(row)} columns, the header has {len(header)}")
        if row:
            yield f"{path}:{number}", dict(enumerate(row)) if header is None else dict(zip(header, row, strict=True))


def _value(record: Record, column: Column) -> str:
    where, values = record
    try:
        value = values[column]
    except (KeyError, TypeError):
        there = ", ".join(map(str, values)) if isinstance(values, dict) else type(values).__name__
        raise ValueError(f"{where}: has no {column}; there is {there}") from None
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        return " ".join(value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{where}: {column} must be text, got {json.dumps(value, ensure_ascii=False)[:60]}")
    return str(value)


def _is_ignored(record: Record, config: TaskConfig) -> bool:
    return bool(config.ignored_labels) and _value(record, config.columns.label) in config.ignored_labels


def _labels(record: Record, config: TaskConfig) -> list[str]:
    if config.kind == "entities":
        return [entity.type for entity in _tagged(record).entities]
    return [_value(record, config.columns.label)]


def _example(record: Record, config: TaskConfig, labels: tuple[str, ...]) -> Example:
    where = record[0]
    if unknown := [label for label in _labels(record, config) if label not in labels]:
        raise ValueError(f"{where}: unknown label {unknown[0]!r}; the task has {', '.join(labels)}")
    if config.kind == "entities":
        return _tagged(record)
    label = labels.index(_value(record, config.columns.label))
    if config.kind == "coreference":
        return Classified(_marked(record), None, label)
    text_b = None if config.columns.text_b is None else _value(record, config.columns.text_b)
    return Classified(_value(record, config.columns.text), text_b, label)


def _tagged(record: Record) -> Tagged:
    """CLUENER's {"text", "label": {type: {words: [[first, last], ..]}}}."""
    where, values = record
    try:
        text = values["text"]
        spans = [
            (Entity(first, last + 1, kind), words)
            for kind, found in values["label"].items()
            for words, places in found.items()
            for first, last in places
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f'{where}: want {{"text", "label": {{type: {{words: [[first, last]]}}}}}}: {error}') from None
    for entity, words in spans:
        if not 0 <= entity.start < entity.end <= len(text):
            raise ValueError(
                f"{where}: {entity.type} {words!r} at {entity.start} to {entity.end - 1} is outside the text of "
                f"{len(text)} characters"
            )
        if text[entity.start : entity.end] != words:
            raise ValueError(f"{where}: {entity.type} {words!r} is not what stands at {entity.start}")
    return Tagged(text, tuple(sorted((entity for entity, _ in spans), key=lambda entity: entity.start)))


def _marked(record: Record) -> str:
    """CLUEWSC's text with _ around its first span and [ ] around its second, as CLUE's own baseline has it."""
    where, values = record
    try:
        text, target = values["text"], values["target"]
        spans = [(target[f"span{n}_index"], target[f"span{n}_text"], marks) for n, marks in ((1, "__"), (2, "[]"))]
    except (KeyError, TypeError) as error:
        raise ValueError(f'{where}: want {{"text", "target": {{"span1_index", "span1_text", ..}}}}: {error}') from None
    for start, words, marks in sorted(spans, reverse=True):
        if text[start : start + len(words)] != words:
            raise ValueError(f"{where}: span {words!r} is not what stands at {start}")
        text = f"{text[:start]}{marks[0]}{words}{marks[1]}{text[start + len(words) :]}"
    return str(text)


def _read_questions(path: Path) -> Iterator[Question]:
    """CMRC2018's file, which is SQuAD's: data -> paragraphs -> context and qas."""
    try:
        paragraphs = [part for article in json.loads(path.read_text("utf-8"))["data"] for part in article["paragraphs"]]
        for part in paragraphs:
            for qa in part["qas"]:
                answers = tuple((int(one["answer_start"]), str(one["text"])) for one in qa["answers"])
                yield Question(str(qa["id"]), str(qa["question"]), str(part["context"]), answers)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a file of CMRC2018's form: {error!r}") from error


def _read_reading(config: TaskConfig) -> TaskData:
    train, dev = (list(_read_questions(Path(path))) for path in (config.train, config.dev))
    for path, questions in ((config.train, train), (config.dev, dev)):
        if twice := [name for name, count in Counter(one.id for one in questions).items() if count > 1]:
            raise ValueError(f"{path}: question {twice[0]} stands there more than once")
        if unanswered := [one.id for one in questions if not one.answers]:
            raise ValueError(f"{path}: question {unanswered[0]} has no answer")
        if not questions:
            raise ValueError(f"{path}: holds no questions")
    placed = tuple(_placed(question, config.train) for question in train)
    moved = sum(before != after for before, after in zip(train, placed, strict=True))
    return TaskData((), placed, tuple(dev), 0, moved, _overlap(placed, tuple(dev)))


def _placed(question: Question, path: str) -> Question:
    """With every answer where it stands: CMRC2018 has some a character off, and they go to the nearest such place.

    Only training needs places; an answer to be scored by is its words.
    """
    answers = []
    for start, words in question.answers:
        places = [match.start() for match in re.finditer(re.escape(words), question.text)] if words else []
        if not places:
            raise ValueError(f"{path}: question {question.id}: {words!r} does not stand in its text")
        answers.append((min(places, key=lambda place: abs(place - start)), words))
    return replace(question, answers=tuple(answers))
