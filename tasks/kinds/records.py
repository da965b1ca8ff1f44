"""Kinds whose examples are labelled records, one a line: the common part of reading them."""

import json
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from tasks.examples import Classified, Example, Tagged
from tasks.kinds.input_files import id_of, read_inputs
from tasks.kinds.kind import Column, Columns, Input, TaskData, TaskKind, TaskSettings, count_overlap
from tasks.kinds.record_files import Record, read_records


@dataclass(frozen=True)
class Parsed:
    """A record with its labels by name: their indices are known only after all records are read."""

    where: str
    labels: tuple[str, ...]
    example: Classified | Tagged  # with class -1
    num_nested: int = 0


class RecordKind(TaskKind):
    """A kind whose files hold a labelled record a line.

    Attributes:
        label_noun: what a file without any label lacks, for messages.
    """

    label_noun: ClassVar[str] = "labelled examples"
    why_not_augmented = ""

    @abstractmethod
    def example(self, record: Record, columns: Columns) -> Classified | Tagged:
        """Decode one record without its label. Raise ValueError naming its line."""

    def parse(self, record: Record, columns: Columns) -> Parsed:
        """Decode one record with its label. Raise ValueError naming its line."""
        return Parsed(record[0], (label_of(record, columns.label),), self.example(record, columns))

    def inputs(self, path: Path, config: TaskSettings) -> Iterator[Input]:
        """Yield a record at a time, by its `id`, or its number from 0 if it has none."""
        for number, record in enumerate(read_inputs(path, config)):
            name = id_of(record, number)
            try:
                if isinstance(record, ValueError):
                    raise record
                found = Input(name, self.example(record, config.columns))
            except ValueError as error:
                found = Input(name, problem=str(error))
            yield found

    def read_labels(self, config: TaskSettings) -> tuple[str, ...]:
        """Return the configured labels, or those of the training file."""
        if config.labels:
            return tuple(config.labels)
        records = (one for one in read_records(Path(config.train), config) if not _is_ignored(one, config))
        return tuple(sorted({label for one in records for label in self.parse(one, config.columns).labels}))

    def read(self, config: TaskSettings) -> TaskData:
        """Read both files; labels are those of the training file, sorted, unless the configuration lists them."""
        files = [list(read_records(Path(path), config)) for path in (config.train, config.dev)]
        kept = [[record for record in records if not _is_ignored(record, config)] for records in files]
        parsed = [[self.parse(record, config.columns) for record in records] for records in kept]
        labels = tuple(config.labels or sorted({label for one in parsed[0] for label in one.labels}))
        _check_blanks(labels, config.train)
        if not labels:
            raise ValueError(f"{config.train}: contains no {self.label_noun}")
        train, dev = (tuple(_example(one, labels) for one in records) for records in parsed)
        for path, examples in ((config.train, train), (config.dev, dev)):
            if not examples:
                raise ValueError(f"{path}: contains no labelled examples")
        if len(labels) < self.min_labels:
            raise ValueError(
                f"{config.train}: a task needs at least two classes, but all labels are {', '.join(labels)}"
            )
        if config.scored_by == "f1" and len(labels) > 2:
            raise ValueError(f"{config.train}: metric f1 needs two classes, got {len(labels)}; use macro_f1 instead")
        num_ignored = sum(map(len, files)) - sum(map(len, kept))
        num_nested = sum(one.num_nested for records in parsed for one in records)
        return TaskData(labels, train, dev, num_ignored, 0, count_overlap(train, dev), num_nested)


def _check_blanks(labels: tuple[str, ...], path: str) -> None:
    bare: dict[str, str] = {}
    for label in labels:
        if label.strip() in bare:
            raise ValueError(f"{path}: labels {bare[label.strip()]!r} and {label!r} differ only by blanks")
        bare[label.strip()] = label


def _is_ignored(record: Record, config: TaskSettings) -> bool:
    return bool(config.ignored_labels) and value_of(record, config.columns.label, joined=False) in config.ignored_labels


def _example(parsed: Parsed, labels: tuple[str, ...]) -> Example:
    if unknown := [label for label in parsed.labels if label not in labels]:
        raise ValueError(f"{parsed.where}: unknown label {unknown[0]!r}; the task has {', '.join(labels)}")
    if isinstance(parsed.example, Tagged):
        return parsed.example
    return replace(parsed.example, label=labels.index(parsed.labels[0]))


def check_text(where: str, name: Column, value: Any) -> str:
    """Return the value. Raise ValueError if it is no text."""
    if not isinstance(value, str):
        raise ValueError(f"{where}: {name} must be text, got {json.dumps(value, ensure_ascii=False)[:60]}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}: {name} has half of a character (a lone surrogate) at {error.start}") from None
    return value


def check_index(value: Any) -> int:
    """Return the value. Raise TypeError if it is no position in a text."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is not a position in a text")
    return value


def label_of(record: Record, column: Column) -> str:
    """Return the label of a record. Raise ValueError if it is missing or empty."""
    label = value_of(record, column, joined=False)
    if not label.strip():
        raise ValueError(f"{record[0]}: {column} is empty; to leave out such records set ignored_labels to {[label]}")
    return label


def value_of(record: Record, column: Column, joined: bool = True) -> str:
    """Return a column of a record as text; a list of words is joined by spaces."""
    where, values = record
    try:
        value = values[column]
    except (KeyError, TypeError, IndexError):
        found = (
            ", ".join(one if one == one.strip() else repr(one) for one in map(str, values))
            if isinstance(values, dict)
            else type(values).__name__
        )
        raise ValueError(f"{where}: has no {column}; it has {found}") from None
    if joined and isinstance(value, list) and all(isinstance(word, str) for word in value):
        value = " ".join(value)
    if isinstance(value, int):
        value = str(value).lower()  # true and false as JSON has them
    return check_text(where, column, value)
