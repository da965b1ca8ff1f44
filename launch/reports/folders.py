"""What a model's folder says besides its weights: how large its files are, and which student of a run it holds."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")  # a folder may hold the same ones in both forms


def name_folders(arguments: list[str], flag: str = "--models") -> dict[str, str]:
    """Return `{name: folder or hub id}` of a flag's `NAME=FOLDER` arguments.

    Raise ValueError for an argument of another form, or a name given twice.
    """
    folders: dict[str, str] = {}
    for argument in arguments:
        name, found, folder = argument.partition("=")
        if not (name and found and folder) or name in folders:
            raise ValueError(f"{flag} {argument}: want NAME=FOLDER, each name once")
        folders[name] = folder
    return folders


def file_megabytes(folder: str) -> float | None:
    """Return the size of the weights' files in 10^6 bytes; None where the model is not in a folder."""
    for pattern in _WEIGHTS:
        if files := [*Path(folder).glob(pattern)]:
            return sum(path.stat().st_size for path in files) / 1e6
    return None


def untrained_student(folder: str) -> str | None:
    """Return the student's name where the folder is `<run>/start/<student>`: a student before its first step."""
    path = Path(folder)
    return path.name if path.parent.name == "start" and (path.parents[1] / "run.json").is_file() else None


def published_student(folder: str) -> str | None:
    """Return the name under which a run trained the published student of this folder."""
    with suppress(OSError, ValueError):
        made = json.loads((Path(folder) / "distillation.json").read_text("utf-8"))
        if isinstance(made, dict) and isinstance(made.get("name"), str):
            return made["name"]
    return None


def find_twins(folders: Mapping[str, str]) -> dict[str, str]:
    """Return `{model: its untrained twin}` for the published students whose start is among the models too."""
    starts = {student: name for name, folder in folders.items() if (student := untrained_student(folder))}
    students = {name: published_student(folder) for name, folder in folders.items()}
    return {name: starts[student] for name, student in students.items() if student in starts}
