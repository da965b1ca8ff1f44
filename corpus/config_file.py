"""Strict JSON configuration files: reading, `key=value` overrides, and errors that name every problem at once."""

import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

Config = TypeVar("Config", bound=BaseModel)


def read_values(path: Path) -> dict[str, Any]:
    """Read the JSON object in a file. Raise ValueError if it cannot be read, is not JSON or not an object."""
    try:
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: must hold one JSON object")
    return values


def override(values: dict[str, Any], text: str) -> None:
    """Set one value of a configuration, in place.

    Args:
        text: `dotted.key=value`, as given to --set; numbers index lists (`students.0.num_layers=2`). The value is
            JSON, and a plain word needs no quotes. Missing objects on the way are made.

    Raises ValueError if the text has another form or the path leads nowhere.
    """
    dotted, equals, literal = text.partition("=")
    if not equals or not dotted:
        raise ValueError(f"--set {text}: wanted dotted.key=value, for example students.0.num_layers=2")
    *parents, last = dotted.split(".")
    holder: Any = values
    for key in parents:
        holder = _member(holder, key, text)
    try:
        value = json.loads(literal)
    except (ValueError, RecursionError):
        value = literal
    if isinstance(holder, list):
        _member(holder, last, text)
        holder[int(last)] = value
    elif isinstance(holder, dict):
        holder[last] = value
    else:
        raise ValueError(f"--set {text}: {'.'.join(parents)} holds no keys")


def _member(holder: Any, key: str, text: str) -> Any:
    if isinstance(holder, list):
        if key not in map(str, range(len(holder))):
            raise ValueError(f"--set {text}: {key} is not an index of a list of {len(holder)}")
        return holder[int(key)]
    if isinstance(holder, dict):
        return holder.setdefault(key, {})
    raise ValueError(f"--set {text}: nothing lies below {key}")


def validate(model: type[Config], values: Any, where: str | Path) -> Config:
    """Build a strict configuration from JSON values.

    Args:
        where: the file or "command line", for messages.

    Raises ValueError with every problem on a line of its own: key, what was wanted, what was given.
    """
    try:
        return model.model_validate_json(json.dumps(values))
    except ValidationError as error:
        problems = explain(error, values, model)
        raise ValueError("\n".join([f"{where}: {len(problems)} problem(s)", *problems])) from error


def explain(error: ValidationError, values: Any, model: type[BaseModel]) -> list[str]:
    """Return a line for every problem that pydantic found in `values`: `key: what was wanted, got what was given`."""
    problems = error.errors(include_url=False)
    lines = []
    for problem in problems:
        location, kind, message = problem["loc"], problem["type"], problem["msg"].removeprefix("Value error, ")
        # pydantic counts only the valid items of a list: one wrong item makes the list too short as well
        if kind == "too_short" and any(other["loc"][: len(location)] == location != other["loc"] for other in problems):
            continue
        path = ".".join(map(str, _path_in(values, location, kind == "missing")))
        if kind == "extra_forbidden":
            message = unknown_key(str(location[-1]), model)
        elif kind == "missing":
            message = "required, and not given"
        elif path and kind != "value_error":  # our own validators name the value where it helps
            message += f", got {json.dumps(problem['input'], ensure_ascii=False, default=str)[:80]}"
        lines.append(f"{path}: {message}".removeprefix(": "))
    return lines


def _path_in(values: Any, location: tuple[int | str, ...], missing: bool) -> Iterator[int | str]:
    """The keys of a location that are in the file; pydantic puts the tags of unions between them."""
    for index, part in enumerate(location):
        members = values if isinstance(values, dict) else range(len(values)) if isinstance(values, list) else ()
        if part in members:
            values = values[part]
            yield part
        elif missing and index == len(location) - 1:
            yield part


def unknown_key(key: str, model: type[BaseModel]) -> str:
    """Return the message for an unknown key, with the nearest of the model's keys at any depth."""
    nearest = difflib.get_close_matches(key, _known_keys(model), 1, 0.5)
    return f"unknown key; did you mean {nearest[0]}?" if nearest else "unknown key"


def _known_keys(model: type[BaseModel]) -> list[str]:
    keys = dict.fromkeys(model.model_fields)
    for field in model.model_fields.values():
        for below in _models(field.annotation):
            keys.update(dict.fromkeys(_known_keys(below)))
    return list(keys)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)
