"""Results that are there whole or not at all: written aside, synced, then renamed."""

import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from corpus.manifest import sync_folder
from corpus.settings import Record

_RECORD = "record.json"


class Result(Record):
    """What a unit's result says of itself. `key` is that of all it was made from."""

    key: str


_Result = TypeVar("_Result", bound=Result)


def load_result(kind: type[_Result], folder: Path, key: str) -> _Result | None:
    """The record of a committed folder; None if there is none, or one made from something else."""
    try:
        result = kind.model_validate_json((folder / _RECORD).read_bytes())
    except (OSError, ValueError):
        return None
    return result if result.key == key else None


def save_result(folder: Path, build: Callable[[Path], _Result]) -> _Result:
    """Runs `build` on an empty folder, adds the record it returns, and puts the folder in its place.

    A kill leaves at most a folder with another name. Whoever does the same work at the same time does no harm.
    """
    partial = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}.partial")
    partial.mkdir()
    try:
        result = build(partial)
        (partial / _RECORD).write_text(result.model_dump_json(), encoding="utf-8")
        for file in partial.iterdir():
            _sync_file(file)
        sync_folder(partial)
        if load_result(type(result), folder, result.key) is None:
            shutil.rmtree(folder, ignore_errors=True)
            try:
                partial.rename(folder)
            except OSError:
                if load_result(type(result), folder, result.key) is None:
                    raise
            sync_folder(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return result


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
