"""The base class of every kind of task, and what a task's configuration tells it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import Tensor

from pretrain.settings import Settings
from tasks.examples import Example, text_of
from tasks.rows import EncodedExamples, Row, Tokenizer

_NUM_SHOWN = 20  # labels in a summary
Column = str | int  # a key of JSON lines, a name in a header, or the index of a column without header


class Columns(Settings):
    """The columns of texts and label. A value that is a list of words is joined by spaces."""

    text: Column = "sentence"
    text_b: Column | None = None  # the second text of a pair
    label: Column = "label"


class TaskSettings(Protocol):
    """The keys of a task's configuration that its kind reads; tasks/config.py explains them."""

    @property
    def name(self) -> str: ...
    @property
    def train(self) -> str: ...
    @property
    def dev(self) -> str: ...
    @property
    def format(self) -> str: ...
    @property
    def has_header(self) -> bool: ...
    @property
    def columns(self) -> Columns: ...
    @property
    def labels(self) -> Sequence[str] | None: ...
    @property
    def ignored_labels(self) -> Sequence[str]: ...
    @property
    def scored_by(self) -> str: ...
    @property
    def skip_unanswerable(self) -> bool: ...
    @property
    def row_tokens(self) -> int: ...
    @property
    def window_stride(self) -> int: ...


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
    num_skipped: int = 0  # questions without an answer in their text
    unlabelled: tuple[Example, ...] = ()  # augmented and other texts whose labels are not known

    @property
    def summary(self) -> str:
        """The numbers of examples and labels, and facts that matter for the scores, in one line."""
        counts = {
            "records with an ignored label left out": self.num_ignored,
            "questions without an answer in their text left out": self.num_skipped,
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
class Input:
    """An example to predict, or a record that cannot be read.

    Attributes:
        id: its name in the file, or its number from 0.
        example: without a label; None for a record that cannot be read.
        problem: why it cannot be read, with its file and line.
    """

    id: str | int
    example: Example | None = None
    problem: str = ""


class TaskKind(ABC):
    """One kind of task.

    Attributes:
        metrics: names of its scores, each between 0 and 1; the first is the default.
        auto_class: the class of transformers whose head answers it.
        fixed_keys: keys that its own file format determines, so that a configuration must not set them.
        formats: the formats of its files, the first of which is the default.
        has_second_text: whether an example has two texts, and `columns.text_b` must be set.
        has_questions: whether an example is a question, which may have no answer.
        min_labels: the fewest labels that make a task.
        why_not_augmented: why words of its texts cannot be replaced; empty if they can.
        answer_fields: the keys of its answers.
    """

    metrics: ClassVar[tuple[str, ...]]
    auto_class: ClassVar[Any]
    fixed_keys: ClassVar[tuple[str, ...]] = ()
    formats: ClassVar[tuple[str, ...]] = ("json_lines",)
    has_second_text: ClassVar[bool] = False
    has_questions: ClassVar[bool] = False
    min_labels: ClassVar[int] = 2
    why_not_augmented: ClassVar[str] = "its records are not known to be texts whose words may be replaced"
    answer_fields: ClassVar[tuple[str, ...]] = ("label",)

    def problems(self, config: TaskSettings) -> Iterator[str]:
        """Yield `key: message` for settings that cannot work for this kind."""
        return iter(())

    @abstractmethod
    def read(self, config: TaskSettings) -> TaskData:
        """Read the training and development files. Raise ValueError naming the file and line of a problem."""

    @abstractmethod
    def inputs(self, path: Path, config: TaskSettings) -> Iterator[Input]:
        """Yield the examples of a file to predict; labels in it are not read. Raise ValueError if it cannot be read."""

    def read_labels(self, config: TaskSettings) -> tuple[str, ...]:
        """Return the task's labels from its configuration or its training file; none for kinds without labels."""
        return ()

    @abstractmethod
    def encode(
        self, examples: Sequence[Example], config: TaskSettings, labels: Sequence[str], tokenizer: Tokenizer
    ) -> EncodedExamples:
        """Encode examples, at least one, as rows of at most `row_tokens` tokens."""

    @abstractmethod
    def score(
        self, logits: Sequence[Tensor], rows: Sequence[Row], examples: Sequence[Example], labels: Sequence[str]
    ) -> dict[str, float]:
        """Return every metric, from the logits of every row without its padding."""

    @abstractmethod
    def answers(
        self, logits: Sequence[Tensor], rows: Sequence[Row], examples: Sequence[Example], labels: Sequence[str]
    ) -> list[dict[str, Any]]:
        """Return the predicted answer to every example as a JSON object; `score` scores the same answers."""

    @abstractmethod
    def probabilities(
        self, logits: Sequence[Tensor], rows: Sequence[Row], examples: Sequence[Example], labels: Sequence[str]
    ) -> list[Any]:
        """Return how sure the model is of every example's answer, as a JSON value of numbers between 0 and 1."""

    def outputs(self, labels: Sequence[str]) -> list[str]:
        """Return the names of the head's outputs; an empty list if they have no names."""
        return list(labels)

    def labels_of(self, outputs: Sequence[str]) -> tuple[str, ...]:
        """Return the labels whose `outputs` these are."""
        return tuple(outputs)


def count_overlap(train: Sequence[Example], dev: Sequence[Example]) -> int:
    """Return the number of development examples whose text is also in training."""
    seen = {text_of(example) for example in train}
    return sum(text_of(example) in seen for example in dev)


def shares(logits: Tensor) -> list[float]:
    """Return probabilities [C] of logits [C], with six digits after the point."""
    return [round(value, 6) for value in logits.double().softmax(-1).tolist()]
