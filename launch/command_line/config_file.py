"""Strict JSON configuration files: `--set` overrides, every problem at once, and what differs between two."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from corpus.config_file import Config, override, read_values, validate


@contextmanager
def prefix_errors(key: str) -> Iterator[None]:
    """Prefix ValueErrors raised inside with the configuration key they concern."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


def read_strictly(
    model: type[Config],
    source: Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    expand: Callable[[Any], Any] = lambda values: values,
) -> Config:
    """Decode a JSON file, or the object itself, strictly, with `dotted.key=value` overrides.

    Args:
        expand: replaces abbreviations in the values after the overrides.

    Raises ValueError with every problem on a separate line: key, what was wanted, what was given.
    """
    values = read_values(source) if isinstance(source, Path) else json.loads(json.dumps(source))
    for text in overrides:
        override(values, text)
    where = source if isinstance(source, Path) else "the configuration"
    try:
        values = expand(values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return validate(model, values, where)


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
