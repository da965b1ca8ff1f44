"""Labelled examples, as every reader gives them and every metric wants them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Classified:
    """One text or two, and the index of a class."""

    text: str
    text_b: str | None
    label: int


@dataclass(frozen=True)
class Entity:
    """Characters start to end, end not included, of one type."""

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
    """A question about a text; every answer is a place in it and the words there."""

    id: str
    question: str
    text: str
    answers: tuple[tuple[int, str], ...]


Example = Classified | Tagged | Question


def text_of(example: Example) -> tuple[str, ...]:
    """What makes two examples the same text."""
    if isinstance(example, Classified):
        return (example.text,) if example.text_b is None else (example.text, example.text_b)
    return (example.text,) if isinstance(example, Tagged) else (example.question, example.text)
