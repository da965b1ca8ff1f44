"""A benchmark's submission: its files checked against the published form, and packed into a zip."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

from launch.evaluation.suites import Suite
from launch.prediction.submissions import ONE_OBJECT
from pretrain.durable import move, sync, writing


def pack_files(suite: Suite, folder: Path, output: Path) -> list[str]:
    """Write a zip of the suite's files that are in a folder, by their names alone; return what a submission lacks.

    Raise ValueError if a file is not of its form, or there is none.
    """
    found = {task: folder / name for task, name in suite.files.items() if (folder / name).is_file()}
    if not found:
        raise ValueError(f"{folder}: has none of {', '.join(suite.files.values())}")
    lacking = [f"{name} is missing" for task, name in suite.files.items() if task not in found]
    for task, path in found.items():
        count, wanted = check_file(task, path), suite.num_answers.get(task)
        if wanted is not None and count != wanted:
            lacking.append(f"{path.name} has {count:,} answers, but the test set {wanted:,}")
    partial = output.with_name(f".{output.name}.partial")
    with writing(output):
        with ZipFile(partial, "w", ZIP_DEFLATED) as archive:
            for path in found.values():
                archive.write(path, path.name)
        sync(partial)
        move(partial, output)
    return lacking


def check_file(task: str, path: Path) -> int:
    """Return the number of answers in a file to submit. Raise ValueError naming what is not of the published form."""
    text = path.read_text(encoding="utf-8")
    if task in ONE_OBJECT:
        values = _json(path, text)
        wanted = str if ONE_OBJECT[task] == "answer" else int
        if not isinstance(values, dict) or not all(isinstance(value, wanted) for value in values.values()):
            raise ValueError(f"{path}: must be one object with {'words' if wanted is str else 'a number'} by question")
        return len(values)
    records = [_json(f"{path}:{number}", line) for number, line in enumerate(text.splitlines(), 1)]
    for number, record in enumerate(records):
        _check_record(f"{path}:{number + 1}", record, number, task)
    return len(records)


def _check_record(where: str, record: Any, number: int, task: str) -> None:
    if not isinstance(record, dict) or record.get("id") != number:
        raise ValueError(f'{where}: must have "id": {number}, since answers are in the order of the test file')
    label = record.get("label")
    if task == "cluener":
        is_form = isinstance(label, dict) and all(map(_is_entities, label.values()))
    else:
        is_form = isinstance(label, int if task == "c3" else str)
    if not is_form:
        form = {"cluener": "{type: {words: [[first, last]]}}", "c3": "the index of a choice"}.get(task, "text")
        raise ValueError(f"{where}: label must be {form}, got {json.dumps(label, ensure_ascii=False)[:60]}")


def _is_entities(found: Any) -> bool:
    return isinstance(found, Mapping) and all(
        len(place) == 2 and place[0] + len(words) - 1 == place[1] for words, places in found.items() for place in places
    )


def _json(where: object, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where}: not JSON: {error}") from error
