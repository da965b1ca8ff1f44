"""Strict JSON configuration files: `--set` overrides, every problem at once, and what differs between two."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from corpus.config import unknown_key

Config = TypeVar("Config", bound=BaseModel)


@contextmanager
def prefix_errors(key: str) -> Iterator[None]:
    """Prefix ValueErrors raised inside with the configuration key they concern."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


def read_strictly(model: type[Config], path: Path, overrides: Sequence[str] = ()) -> Config:
    """Decode a config file with `dotted.key=value` overrides.

    Raises ValueError with every problem on a line of its own: path, what was wanted, what came.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    for override in overrides:
        _override(values, override)
    try:
        return model.model_validate_json(json.dumps(values))
    except ValidationError as error:
        lines = [f"{path}: {error.error_count()} problem(s)", *_explain(error, values, model)]
        raise ValueError("\n".join(lines)) from error


def _override(values: Any, text: str) -> None:
    dotted, equals, literal = text.partition("=")
    if not equals or not dotted:
        raise ValueError(f"--set {text}: wanted dotted.key=value, for example students.0.num_layers=2")
    *parents, last = dotted.split(".")
    for key in parents:
        values = _member(values, key, text)
    try:
        value = json.loads(literal)
    except (ValueError, RecursionError):
        value = literal  # a plain word needs no quotes
    if isinstance(values, list):
        _member(values, last, text)
        values[int(last)] = value
    elif isinstance(values, dict):
        values[last] = value
    else:
        raise ValueError(f"--set {text}: {'.'.join(parents)} holds no keys")


def _member(values: Any, key: str, text: str) -> Any:
    if isinstance(values, list):
        if key not in map(str, range(len(values))):
            raise ValueError(f"--set {text}: {key} is not an index of a list of {len(values)}")
        return values[int(key)]
    if isinstance(values, dict):
        return values.setdefault(key, {})
    raise ValueError(f"--set {text}: nothing lies below {key}")


def _explain(error: ValidationError, values: Any, model: type[BaseModel]) -> Iterator[str]:
    for problem in error.errors(include_url=False):
        path = ".".join(str(part) for part in _path_in(values, problem["loc"], problem["type"] == "missing"))
        if problem["type"] == "extra_forbidden":
            yield f"{path}: {unknown_key(str(problem['loc'][-1]), model)}"
        elif problem["type"] == "missing":
            yield f"{path}: required, and not given"
        else:
            got = "" if not path else f", got {json.dumps(problem['input'], ensure_ascii=False, default=str)[:80]}"
            yield f"{path}: {problem['msg']}{got}".removeprefix(": ")


def _path_in(values: Any, location: tuple[Any, ...], missing: bool) -> Iterator[int | str]:
    """The keys of a location that stand in the file; pydantic puts the tags of unions between them."""
    for index, part in enumerate(location):
        members = values if isinstance(values, dict) else range(len(values)) if isinstance(values, list) else ()
        if part in members:
            values = values[part]
            yield part
        elif missing and index == len(location) - 1:
            yield part


def changed_keys(
    old: dict[Any, Any], new: dict[Any, Any], prefix: str = "", may_change: Sequence[str] = ()
) -> list[str]:
    """Return the dotted keys, as for --set, whose values differ between two complete configurations.

    A list whose length has changed is a single key. `may_change` has patterns of keys to leave out; "*" matches any
    keys.
    """
    changed = []
    for key in sorted(old.keys() | new.keys()):
        path, before, after = f"{prefix}{key}", old.get(key), new.get(key)
        if before == after or any(fnmatchcase(path, one) for one in may_change):
            continue
        if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
            before, after = dict(enumerate(before)), dict(enumerate(after))
        if isinstance(before, dict) and isinstance(after, dict):
            changed += changed_keys(before, after, f"{path}.", may_change)
        else:
            changed.append(path)
    return changed
