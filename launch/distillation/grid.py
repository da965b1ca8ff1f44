"""Students given as a grid of sizes, expanded to a student of each size before a configuration is decoded."""

import json
from collections.abc import Iterator
from itertools import product
from typing import Any

from corpus.config_file import validate
from pretrain.students.config import GridConfig, StudentConfig

HEAD_SIZE, FEED_FORWARD = 64, 4  # arXiv:1908.08962: heads of 64, feed-forward layers of four widths


def expand_grids(values: Any) -> Any:
    """Return a run's JSON values with every student that has a `grid` replaced by one of each size.

    If another key of such a student is wrong, grids become their first student alone, so that decoding names it once
    and where it is in the file.

    Raise ValueError listing everything wrong with a grid, with its path.
    """
    students = values.get("students") if isinstance(values, dict) else None
    if not isinstance(students, list) or not any(map(_has_grid, students)):
        return values
    if problems := [line for index, one in enumerate(students) for line in _problems(one, f"students.{index}")]:
        raise ValueError("\n".join([f"{len(problems)} problem(s)", *problems]))
    each = [list(_expand(one)) if _has_grid(one) else [one] for one in students]
    firsts = [sizes[0] for sizes in each]
    every = [one for sizes in each for one in sizes] if all(map(_decodes, firsts)) else firsts
    return {**values, "students": every}


def _has_grid(student: Any) -> bool:
    return isinstance(student, dict) and student.get("grid") is not None


def _problems(student: Any, path: str) -> Iterator[str]:
    if not _has_grid(student):
        return
    if not isinstance(student["grid"], dict):
        yield f"{path}.grid: must be an object with num_layers and hidden_size, got {json.dumps(student['grid'])}"
        return
    try:
        grid = validate(GridConfig, student["grid"], f"{path}.grid")
    except ValueError as error:
        yield from (f"{path}.grid.{line}" for line in str(error).splitlines()[1:])
        return
    for key in ("num_layers", "hidden_size"):
        if key in student:
            yield f"{path}.{key}: is given by grid; leave out one of them"
        sizes = getattr(grid, key)
        for repeated in sorted({size for size in sizes if sizes.count(size) > 1}):
            yield f"{path}.grid.{key}: {repeated} is listed more than once"
    heads = student.get("num_attention_heads")
    for index, width in enumerate(grid.hidden_size):
        where = f"{path}.grid.hidden_size.{index}"
        if heads is None and width % HEAD_SIZE:
            remedy = "take multiples of it, or give num_attention_heads"
            yield f"{where}: {width} is not a multiple of {HEAD_SIZE}, the width of a head; {remedy}"
        elif isinstance(heads, int) and heads > 0 and width % heads:
            remedy = "leave out num_attention_heads for heads that are 64 wide, or take multiples of it"
            yield f"{where}: {width} cannot be divided among num_attention_heads ({heads}); {remedy}"


def _expand(student: dict[str, Any]) -> Iterator[dict[str, Any]]:
    shared = {key: value for key, value in student.items() if key != "grid"}
    for layers, width in product(student["grid"]["num_layers"], student["grid"]["hidden_size"]):
        sizes = {"num_layers": layers, "hidden_size": width}
        sizes |= {"num_attention_heads": width // HEAD_SIZE, "intermediate_size": FEED_FORWARD * width}
        name = {"name": f"{student['name']}-{layers}l{width}d"} if isinstance(student.get("name"), str) else {}
        yield {**sizes, **shared, **name}


def _decodes(student: Any) -> bool:
    try:
        validate(StudentConfig, student, "")
    except ValueError:
        return False
    return True
