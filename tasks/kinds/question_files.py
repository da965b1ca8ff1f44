"""Reading of questions about texts, from every form in which SQuAD's, CMRC2018's and the like are published."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tasks.examples import Question
from tasks.kinds.input_files import id_of
from tasks.kinds.kind import Input
from tasks.kinds.record_files import Record, read_json_records, read_text
from tasks.kinds.records import check_index, check_text

_FORMS = (
    'must be {"data": [{"paragraphs": [{"context", "qas"}]}]} (SQuAD), a list of {"context_text", "qas"} (CMRC2018) '
    'or rows of {"id", "context", "question", "answers": {"text", "answer_start"}} (the hub), as a list or one a line'
)
_LEVELS = "data", "paragraphs", "qas"  # lists within a record, each of which may be missing
_Answers = tuple[tuple[int, str], ...]
_Asked = tuple[str, dict[str, Any], dict[str, Any]]  # its place, what has the text, and what has the question


def read_questions(path: Path) -> Iterator[Question]:
    """Yield the questions of a file, with all of their answers.

    An answer without a position gets that of its first occurrence, -1 if there is none. Raise ValueError naming the
    file, the record and the question if one has another form.
    """
    for one in questions_of(read_json_records(path, read_text(path), "questions are JSON"), with_answers=True):
        if not isinstance(one.example, Question):
            raise ValueError(one.problem)
        yield one.example


def questions_of(records: Iterable[Record | ValueError], with_answers: bool) -> Iterator[Input]:
    """Yield the questions of records by their ids, with all of their answers or with none.

    One that cannot be read has a `problem` that names its place; without an id it has its number from 0.
    """
    found = (one for record in records for one in ([record] if isinstance(record, ValueError) else _asked(*record)))
    for number, asked in enumerate(found):
        name: str | int = number
        try:
            if isinstance(asked, ValueError):
                name = id_of(asked, number)
                raise asked
            where, part, qa = asked
            name = check_text(where, "id", str(_first(where, qa, ("id", "query_id"))))
            one = Input(name, _question(f"{where}: question {name}", name, part, qa, with_answers))
        except ValueError as error:
            one = Input(name, problem=str(error))
        yield one


def _asked(where: str, values: Any, part: Any = None, levels: Sequence[str] = _LEVELS) -> Iterator[_Asked | ValueError]:
    """Yield what is asked in a record, at each level of lists that it has, and an error for what has another form."""
    if not isinstance(values, dict):
        yield ValueError(f"{where}: {_FORMS}; got {json.dumps(values, ensure_ascii=False)[:60]}")
    elif not levels:
        yield where, part, values
    elif levels[0] not in values:
        yield from _asked(where, values, values, levels[1:])
    elif not isinstance(values[levels[0]], list):
        yield ValueError(f"{where}: {_FORMS}; its {levels[0]} are no list")
    else:
        for number, one in enumerate(values[levels[0]], 1):
            yield from _asked(f"{where}, {levels[0]} {number}", one, values, levels[1:])


def _question(where: str, name: str, part: dict[str, Any], qa: dict[str, Any], with_answers: bool) -> Question:
    """Return a question about a text; the text is in `part`, or for a row of the hub's in the question itself."""
    context = check_text(where, "context", _first(where, part, ("context", "context_text")))
    question = check_text(where, "question", _first(where, qa, ("question", "query_text")))
    answers = qa.get("answers", []) if with_answers else []
    try:
        return Question(name, question, context, _answers(answers, context))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        form = 'a list of {"text", "answer_start"} or of words, or {"text": [..], "answer_start": [..]}'
        shown = json.dumps(answers, ensure_ascii=False)[:60]
        raise ValueError(f"{where}: answers must be {form}, got {shown} ({error})") from error


def _first(where: object, values: dict[str, Any], keys: Sequence[str]) -> Any:
    for key in keys:
        if key in values:
            return values[key]
    raise ValueError(f"{where}: {_FORMS}; has no {' or '.join(keys)}, but {', '.join(values) or 'nothing'}")


def _answers(answers: Any, context: str) -> _Answers:
    if isinstance(answers, dict):
        starts, words = answers["answer_start"], answers["text"]
        return tuple((check_index(start), _words(one)) for start, one in zip(starts, words, strict=True))
    if not isinstance(answers, list):
        raise TypeError("no list")
    return tuple(
        (context.find(one), one) if isinstance(one, str) else (check_index(one["answer_start"]), _words(one["text"]))
        for one in answers
    )


def _words(value: Any) -> str:
    if not isinstance(value, str | int | float):  # some files have numbers as answers
        raise TypeError(f"{value!r} is no text")
    return str(value)
