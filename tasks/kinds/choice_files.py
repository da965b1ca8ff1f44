"""Reading of multiple choice: C3's dialogues and texts, and ChID's texts with blanks, in CLUE's form and the hub's."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.examples import Choice
from tasks.kinds.record_files import Record, read_text
from tasks.kinds.records import check_text

BLANK = re.compile(r"#idiom\d+#")
_C3 = 'must be [[text, ..], [{"question", "choice": [..], "answer"}], id] (C3), or {"context", "question", "choice"}'
_CHID = 'must be {"content": [text with #idiom000001#, ..], "candidates": [..]} (ChID)'


def questions_of(record: Record, with_answers: bool) -> Iterator[Choice]:
    """Yield the questions of a record of C3, or of a row of the hub's. Their ids are empty: C3 counts its questions.

    Raise ValueError naming the record if it has another form, or its answer is none of its choices.
    """
    where, values = record
    try:
        if isinstance(values, dict):
            context, questions = values["context"], [values]
        else:
            context, questions, *_ = values
        lines = [context] if isinstance(context, str) else context
        text = "\n".join(check_text(where, "context", line) for line in lines)
        for one in questions:
            question = check_text(where, "question", one["question"])
            choices = _texts(where, "choice", one["choice"])
            label = _place_of(where, one.get("answer"), choices) if with_answers else -1
            yield Choice("", text, question, _checked(where, choices), label)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _of_form(where, _C3, values, error) from error


def blanks_of(record: Record, group: int, answers: Mapping[str, Any] | None) -> Iterator[Choice]:
    """Yield the blanks of a record of ChID, all of the same group.

    Args:
        answers: by blank the index of its idiom among the candidates; None for blanks to predict. Rows of the hub have
            them in themselves, as `answers`.

    Raises:
        ValueError: naming the record if it has another form, or a blank has no answer among the candidates.
    """
    where, values = record
    try:
        choices = _checked(where, _texts(where, "candidates", values["candidates"]))
        texts = [values["content"]] if isinstance(values["content"], str) else values["content"]
        found = [(blank, text) for text in texts for blank in BLANK.findall(check_text(where, "content", text))]
        own = values.get("answers")
        known = dict(zip(own["text"], own["candidate_id"], strict=True)) if own else answers
        for blank, text in found:
            label = -1 if answers is None else known.get(blank) if known else None
            if answers is not None and not (type(label) is int and 0 <= label < len(choices)):
                raise ValueError(f"{where}: {blank} has no answer from 0 to {len(choices) - 1}: got {label!r}")
            yield Choice(blank, text, blank, choices, label if label is not None else -1, group)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _of_form(where, _CHID, values, error) from error


def read_blank_answers(path: Path) -> dict[str, Any]:
    """Return the answers to the blanks of a file: those in the file beside it, dev_answer.json for dev.json, if any.

    Raise ValueError if that is no JSON object.
    """
    beside = path.with_name(f"{path.stem}_answer{path.suffix}")
    if not beside.is_file():
        return {}
    try:
        answers = json.loads(read_text(beside))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{beside}: not JSON: {error}") from error
    if not isinstance(answers, dict):
        raise ValueError(f'{beside}: must be {{"#idiom000001#": index of its idiom, ..}}')
    return answers


def _texts(where: str, name: str, values: Any) -> tuple[str, ...]:
    if not isinstance(values, list):  # the characters of a cell in a table would be choices
        raise TypeError(f"{name} is no list")
    return tuple(check_text(where, name, one) for one in values)


def _checked(where: str, choices: tuple[str, ...]) -> tuple[str, ...]:
    if len(choices) < 2:
        raise ValueError(f"{where}: has {len(choices)} choices; must have at least two")
    return choices


def _place_of(where: str, answer: Any, choices: tuple[str, ...]) -> int:
    """Return the index of the answer: exactly it, or without regard to blanks and case, as CLUE's baseline does."""
    if answer in choices:
        return choices.index(answer)
    bare = [choice.strip().lower() for choice in choices]
    if isinstance(answer, str) and answer.strip().lower() in bare:
        return bare.index(answer.strip().lower())
    raise ValueError(f"{where}: answer {answer!r} is none of the choices {', '.join(choices)}")


def _of_form(where: str, form: str, values: Any, error: Exception) -> ValueError:
    if isinstance(error, ValueError) and str(error).startswith(where):
        return error
    return ValueError(f"{where}: {form}; got {json.dumps(values, ensure_ascii=False)[:80]} ({error!r})")
