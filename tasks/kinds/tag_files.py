"""Reading of entities from files of tags: a character or word and its tag a line, a blank line between texts."""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

_TAG = re.compile(r"O|([BIMESLU])[-_](\S+)|(\S+)[-_]([BIMESLU])")
_FORMS = "O, or B-TYPE, I-TYPE and the like (BIO, BMES, BIOES, BILOU; - or _ between)"
_Line = tuple[str, str]  # its file and number, and its text
_Token = tuple[str, list[str], str]  # file and line, columns before the tag, tag


def read_tagged_records(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (file and line, record) of each text. Raise ValueError naming the file and line of a tag that is none."""
    lines = ((f"{path}:{number}", line.removesuffix("\r")) for number, line in enumerate(text.split("\n"), 1))
    for is_text, found in groupby(lines, lambda line: is_tagged(line[1])):
        if is_text:
            yield tagged_record(found)


def is_tagged(line: str) -> bool:
    """Whether a line belongs to a text; others stand between texts."""
    return bool(line.strip()) and not line.startswith("-DOCSTART-")


def tagged_record(lines: Iterable[_Line]) -> tuple[str, dict[str, Any]]:
    """Return (file and line, record) of the lines of a text, the record in the form of CLUENER.

    Columns are separated by tabs or blanks; the first is the word and the last its tag. A tag whose word is missing is
    that of a space. Raise ValueError naming the file and line of a tag that is none.
    """
    tokens = [_token(*line) for line in lines]
    _refuse_numbers(tokens)
    return tokens[0][0], _record(tokens)


def _token(where: str, line: str) -> _Token:
    separator = "\t" if "\t" in line else " "
    *words, tag = line.rstrip(separator).split(separator)
    if not words and not _TAG.fullmatch(tag):
        raise ValueError(f"{where}: has one column: {line[:60]!r}; wanted a character and its tag")
    return where, words, tag.strip()


def _refuse_numbers(tokens: Sequence[_Token]) -> None:
    if len(tokens) > 1 and all(len(words) > 1 and words[0] == str(at) for at, (_, words, _) in enumerate(tokens, 1)):
        raise ValueError(f"{tokens[0][0]}: the first column numbers the words; leave it out: cut -d' ' -f2- FILE")


def _record(tokens: Iterable[_Token]) -> dict[str, Any]:
    """Return the record of a text: its words joined, Latin words by a space, and its entities by type and words."""
    text, before, spans = "", "", []
    open_span: list[Any] | None = None  # first character, end, type
    for where, words, tag in tokens:
        word = words[0] if words and words[0].strip() else " "
        if before and len(before + word) > 2 and _is_latin(before[-1]) and _is_latin(word[0]):
            text += " "
        before = word
        first, last = len(text), len(text) + len(word)
        text += word
        match = _TAG.fullmatch(tag)
        if match is None:
            raise ValueError(f"{where}: unknown tag {tag!r}; must be {_FORMS}")
        prefix, kind = match[1] or match[4], match[2] or match[3]
        if open_span and prefix in ("I", "M", "E", "L") and open_span[2] == kind:
            open_span[1] = last
        else:
            open_span = [first, last, kind] if prefix else None
            spans += [open_span] if open_span else []
        if prefix in ("E", "L", "S", "U"):
            open_span = None
    label: dict[str, dict[str, list[list[int]]]] = {}
    for first, end, kind in spans:
        label.setdefault(kind, {}).setdefault(text[first:end], []).append([first, end - 1])
    return {"text": text, "label": label}


def _is_latin(character: str) -> bool:
    return character.isascii() and character.isalnum()
