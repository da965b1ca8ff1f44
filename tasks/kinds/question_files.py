"""Reading of questions about texts, from every form in which SQuAD's, CMRC2018's and the like are published."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tasks.examples import Question
from tasks.kinds.record_files import read_json_records, read_text
from tasks.kinds.records import check_index, check_text

_FORMS = (
    'must be {"data": [{"paragraphs": [{"context", "qas"}]}]} (SQuAD), a list of {"context_text", "qas"} (CMRC2018) '
    'or rows of {"id", "context", "question", "answers": {"text", "answer_start"}} (the hub), as a list or one a line'
)
_Answers = tuple[tuple[int, str], ...]


def read_questions(path: Path, with_answers: bool = True) -> Iterator[Question]:
    """Yield the questions of a file, with all of their answers, or with none.

    An answer without a position gets that of its first occurrence, -1 if there is none. Raise ValueError naming the
    file and the question if the file has another form.
    """
    values = [value for _, value in read_json_records(path, read_text(path))]
    if len(values) == 1 and isinstance(values[0], dict) and isinstance(values[0].get("data"), list):
        values = values[0]["data"]
    for article in values:
        paragraphs = article.get("paragraphs", [article]) if isinstance(article, dict) else [article]
        if not isinstance(paragraphs, list):
            raise ValueError(f"{path}: {_FORMS}; its paragraphs are no list")
        for part in paragraphs:
            yield from _questions_of(path, part, with_answers)


def _questions_of(path: Path, part: Any, with_answers: bool) -> Iterator[Question]:
    """Yield the questions of a text: those in its `qas`, or itself for a row of the hub's."""
    if not isinstance(part, dict):
        raise ValueError(f"{path}: {_FORMS}; got {json.dumps(part, ensure_ascii=False)[:60]}")
    qas = part.get("qas", [part])
    if not isinstance(qas, list) or not all(isinstance(qa, dict) for qa in qas):
        raise ValueError(f"{path}: {_FORMS}; its qas are no list of objects")
    for qa in qas:
        name = _first(path, qa, ("id", "query_id"))
        where = f"{path}: question {name}"
        context = check_text(where, "context", _first(where, part, ("context", "context_text")))
        question = check_text(where, "question", _first(where, qa, ("question", "query_text")))
        answers = qa.get("answers", []) if with_answers else []
        try:
            yield Question(str(name), question, context, _answers(answers, context))
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
