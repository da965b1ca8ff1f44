"""The forms of predictions: JSON lines, CSV, and the files of CLUE's boards."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from launch.prediction.submissions import submission_lines
from pretrain.durable import move, sync, writing
from tasks.config import TaskConfig
from tasks.kinds.registry import KINDS

Form = Literal["jsonl", "csv", "clue"]
_Answer = Mapping[str, Any]


def write_answers(
    path: Path, form: Form, task: TaskConfig, answers: Iterable[_Answer], with_probabilities: bool = False
) -> None:
    """Write answers as a file of this form, which is complete or absent.

    Args:
        answers: {"id", then what the task's kind answers, "probabilities" if asked for, "problem" if there is one}.

    Raises:
        ValueError: if the file cannot be written or an answer has no place in it.
    """
    if form == "clue":
        lines = submission_lines(task, answers)
    elif form == "csv":
        lines = _csv_lines(answers, KINDS[task.kind].answer_fields, with_probabilities)
    else:
        lines = (json.dumps(one, ensure_ascii=False) for one in answers)
    partial = path.with_name(f".{path.name}.partial")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8", newline="") as file:
            file.writelines(f"{line}\n" for line in lines)
        sync(partial)
        move(partial, path)


def _csv_lines(answers: Iterable[_Answer], fields: Sequence[str], with_probabilities: bool) -> Iterator[str]:
    """Yield a header and a line for each answer, with the probability of the answer itself if asked for."""
    names = ["id", *fields, *(["probability"] if with_probabilities else []), "problem"]
    yield _csv_line(names)
    for answer in answers:
        row = dict(answer) | {"probability": _own(answer)}
        yield _csv_line([row.get(name) for name in names])


def _own(answer: _Answer) -> Any:
    """Return how sure the answer is: of a label or a choice its own probability, of entities that of each."""
    sure = answer.get("probabilities")
    if isinstance(answer.get("label"), str | int) and sure:
        return sure[answer["label"]]
    return sure


def _csv_line(cells: Sequence[Any]) -> str:
    line = io.StringIO()
    texts = (json.dumps(cell, ensure_ascii=False) if isinstance(cell, dict | list) else cell for cell in cells)
    csv.writer(line, lineterminator="").writerow(texts)
    return line.getvalue()
