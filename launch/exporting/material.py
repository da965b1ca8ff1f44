"""What an export is checked on: texts of a file, or the examples of a task."""

import json
import warnings
from pathlib import Path
from typing import Any

from launch.evaluation.config import read_task_file
from launch.exporting.comparison import Material
from launch.exporting.student import Exported
from launch.reports.models import read_texts
from tasks.models import check_head
from tasks.readers import encode, read_task

MOST_TEXTS = 2000


def read_material(student: Exported, check: Path | None, task: str | None) -> Material:
    """Return what to ask a student.

    Args:
        check: a file of texts, one a line, or in a .jsonl file records with "text".
        task: a name in configs/tasks or the path of a task file. Neighbours among its texts label the others; of a
            task model its development examples are answered.

    Raises:
        ValueError: if a file cannot be read, or the student needs a task that is not given or has a head for another.
    """
    if student.head:
        if not task:
            what = f"is a {student.head}: give --task, whose development examples it is to answer"
            raise ValueError(f"{student.folder}: {what}" + (", in place of --check" if check else ""))
        return _examples(student, task)
    if task:
        found, asked, remarks = read_texts(read_task_file(task, "--task"))
        for remark in remarks:
            warnings.warn(f"--task {task}: {remark}", stacklevel=2)
        return Material([*found[0], *asked[0]], [*found[1], *asked[1]], len(found[0]))
    if check:
        return Material(_texts(check))
    warnings.warn(
        "compared on rows of random tokens only: give --check FILE of texts, or --task for neighbours too", stacklevel=2
    )
    return Material()


def _examples(student: Exported, name: str) -> Material:
    task = read_task_file(name, "--task")
    data = read_task(task)
    check_head(str(student.folder), task.kind, data.labels, needs_head=True)
    if task.row_tokens > student.max_tokens:
        raise ValueError(
            f"{student.folder}: has {student.max_tokens} positions, but {task.name} needs {task.row_tokens}"
        )
    encoded = encode(data.dev, task, data.labels, student.tokenizer)
    return Material(task=task, rows=encoded.rows, examples=data.dev, names=data.labels)


def _texts(path: Path) -> list[str]:
    """Return the first texts of a file. Raise ValueError naming the file and line of what is none."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--check {path}: cannot be read as UTF-8: {error}") from error
    is_json = path.suffix.lower() in (".jsonl", ".json")
    texts = [_text(line, f"{path}:{number}") if is_json else line for number, line in enumerate(lines, 1)
             if line.strip()]  # fmt: skip
    if len(texts) < 2:
        raise ValueError(f"--check {path}: has {len(texts)} texts; at least 2 are wanted, better some hundreds")
    if len(texts) > MOST_TEXTS:
        warnings.warn(f"--check {path}: the first {MOST_TEXTS:,} of {len(texts):,} texts are compared", stacklevel=3)
    return texts[:MOST_TEXTS]


def _text(line: str, where: str) -> str:
    try:
        value: Any = json.loads(line)
        text = value["text"]
        if isinstance(text, str):
            return text
    except (ValueError, TypeError, KeyError):
        pass
    raise ValueError(f'{where}: want {{"text": ...}}, got {line[:60]}')
