"""The texts of a record, and their words that may be replaced."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol

from tasks.config import TaskConfig
from tasks.kinds.kind import Column
from tasks.kinds.record_files import Record
from tasks.kinds.records import RecordKind, value_of
from tasks.kinds.registry import KINDS

_CHINESE = re.compile(r"[\u3400-\u9fff]+")
# Parts of speech of the segmenter that carry content: adjectives, adverbs, idioms, nouns, places, times, verbs, ...
_CONTENT = set("abdijlnstvz")
_FUNCTION_WORDS = set("不没未无非别是有在会能可要想让使被把将就都也还又再只才很太最更已曾来去上下")
_FUNCTION_WORDS |= {"没有", "不是", "不会", "不能", "可以", "已经", "还是", "就是", "都是"}
NUM_COMMON_WORDS = 20_000


class Segmenter(Protocol):
    """rjieba, or another segmenter with these functions."""

    def tag(self, text: str) -> list[tuple[str, str]]:
        """Return the words of a text, which together are the text, and their parts of speech."""

    def has_word(self, word: str) -> bool:
        """Return whether a word is in the dictionary."""


@dataclass(frozen=True)
class Word:
    """A word of a text that may be replaced: its first character, its characters, and its part of speech."""

    start: int
    text: str
    part: str

    @property
    def end(self) -> int:
        """The place of its last character + 1."""
        return self.start + len(self.text)


@dataclass(frozen=True)
class Text:
    """A text of a record.

    Attributes:
        column: where the record has it.
        segments: all of its words, punctuation and blanks.
        words: those that may be replaced.
    """

    column: Column
    text: str
    segments: tuple[str, ...]
    words: tuple[Word, ...]


def texts_of(record: Record, task: TaskConfig, segmenter: Segmenter) -> list[Text]:
    """Return the texts of a record: one, or the two of a pair. Words in spans that are labelled are not replaced.

    Raise ValueError naming the line of a record that lacks a column, or is not of the task's form.
    """
    kind, (_, values) = KINDS[task.kind], record
    assert isinstance(kind, RecordKind)
    kind.parse(record, task.columns)
    if task.kind in ("entities", "coreference"):
        return [_text("text", values["text"], segmenter, [*_spans(task.kind, values)])]
    columns = [one for one in (task.columns.text, task.columns.text_b) if one is not None]
    return [_text(column, value_of(record, column), segmenter) for column in columns]


def is_ignored(record: Record, task: TaskConfig) -> bool:
    """Return whether the task leaves a record out because of its label."""
    labels = task.ignored_labels
    return bool(labels) and value_of(record, task.columns.label, joined=False) in labels


def is_chinese(text: str) -> bool:
    """Return whether a text consists of Chinese characters alone."""
    return bool(_CHINESE.fullmatch(text))


def part_of_speech(word: str, segmenter: Segmenter) -> str:
    """Return the first letter of a word's part of speech, empty if it is several words."""
    tagged = segmenter.tag(word)
    return tagged[0][1][:1] if len(tagged) == 1 else ""


def fits(candidate: str, word: Word, segmenter: Segmenter) -> bool:
    """Return whether a word may stand for another.

    It must be a different word of the segmenter's dictionary, of as many Chinese characters, and of the same part of
    speech.
    """
    return (
        candidate != word.text
        and len(candidate) == len(word.text)
        and is_chinese(candidate)
        and candidate not in _FUNCTION_WORDS
        and segmenter.has_word(candidate)
        and part_of_speech(candidate, segmenter) == word.part
    )


def common_words(texts: Iterable[str], segmenter: Segmenter, most: int = NUM_COMMON_WORDS) -> list[str]:
    """Return the commonest Chinese words of texts that are in the segmenter's dictionary, the commonest first."""
    counts = Counter(word for text in texts for word, _ in segmenter.tag(text) if is_chinese(word))
    ordered = sorted(counts, key=lambda word: (-counts[word], word))
    return [word for word in ordered if segmenter.has_word(word)][:most]


def _text(column: Column, text: str, segmenter: Segmenter, spans: Sequence[tuple[int, int]] = ()) -> Text:
    tagged = segmenter.tag(text)
    segments = tuple(segment for segment, _ in tagged)
    assert "".join(segments) == text, text
    starts = accumulate(map(len, segments), initial=0)
    words = [Word(start, word, part[:1]) for start, (word, part) in zip(starts, tagged, strict=False)]
    # What the segmenter joins by guess, without knowing it, is often no word
    usable = (
        word
        for word in words
        if is_chinese(word.text)
        and segmenter.has_word(word.text)
        and word.part in _CONTENT
        and word.text not in _FUNCTION_WORDS
        and all(word.end <= start or end <= word.start for start, end in spans)
    )
    return Text(column, text, segments, tuple(usable))


def _spans(kind: str, values: Any) -> Iterator[tuple[int, int]]:
    """Yield the first character and the end of every span that a record of this kind names."""
    if kind == "entities":
        for found in values["label"].values():
            for places in found.values():
                yield from ((first, last + 1) for first, last in places)
    else:
        target = values["target"]
        for number in (1, 2):
            start = target[f"span{number}_index"]
            yield start, start + len(str(target[f"span{number}_text"]))
