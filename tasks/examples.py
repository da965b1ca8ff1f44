"""Labelled examples of every kind of task."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Classified:
    """One or two texts and the index of their class."""

    text: str
    text_b: str | None
    label: int


@dataclass(frozen=True)
class Entity:
    """A named entity: its first character, its end (exclusive) and its type."""

    start: int
    end: int
    type: str


@dataclass(frozen=True)
class Tagged:
    """A text and the named entities in it."""

    text: str
    entities: tuple[Entity, ...]


@dataclass(frozen=True)
class Question:
    """A question about a text. Every answer is its first character in the text and its words."""

    id: str
    question: str
    text: str
    answers: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class Choice:
    """A question about a text, or a blank in it, with the answers to choose from.

    Attributes:
        id: the question's or the blank's name.
        text: the passage; of a blank, the text with the names of all its blanks.
        question: of a blank, its name.
        label: index of the right answer, -1 if it is not known.
        group: blanks of one group are filled with different choices.
    """

    id: str
    text: str
    question: str
    choices: tuple[str, ...]
    label: int
    group: int = -1


Example = Classified | Tagged | Question | Choice


def text_of(example: Example) -> tuple[str, ...]:
    """Return the texts of an example, by which examples are compared: text or texts, or question and text."""
    if isinstance(example, Classified):
        return (example.text,) if example.text_b is None else (example.text, example.text_b)
    return (example.text,) if isinstance(example, Tagged) else (example.question, example.text)
