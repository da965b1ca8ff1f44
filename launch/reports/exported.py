"""What launch/export.py measured of the models of a report: their forms by score, latency and size."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Form:
    """One form of a model, such as its ONNX graph with 8-bit weights.

    Attributes:
        model, kind: the names of the model and the form.
        score: in percent, `measured` tells of what.
        milliseconds: of one text, at `num_tokens` tokens.
    """

    model: str
    kind: str
    measured: str
    score: float
    milliseconds: float
    num_tokens: int
    megabytes: float

    @property
    def name(self) -> str:
        """Of the model and the form."""
        return f"{self.model}, {self.kind}"


def read_forms(exported: Mapping[str, str]) -> list[Form]:
    """Return the forms that have a score, from the export.json of every folder.

    Args:
        exported: folder by the name of the model.

    Raises:
        ValueError: naming the file that is missing or none of an export, the export that has no score, or the two that
            are of different scores.
    """
    forms = [form for name, folder in exported.items() for form in _forms(name, Path(folder) / "export.json")]
    if len(measured := {form.measured: form.name for form in forms}) > 1:
        first, second = list(measured.items())[:2]
        raise ValueError(
            f"--exported: {first[1]} was scored by {first[0]}, {second[1]} by {second[0]}: export both with one --task"
        )
    return forms


def _forms(name: str, path: Path) -> list[Form]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        measured, forms = record["score"], record["forms"]
        if measured is None:
            raise ValueError(f"{path}: has no score: export the student with --task")
        length = max(
            (length for one in forms.values() for length in one["milliseconds"] if int(length) <= 128), key=int
        )
        return [
            Form(name, form, f"{measured} on {record['checked_on']}", 100 * one["score"],
                 one["milliseconds"][length], int(length), one["megabytes"])
            for form, one in forms.items()
        ]  # fmt: skip
    except FileNotFoundError:
        raise ValueError(
            f"--exported {name}={path.parent}: has no export.json, which launch/export.py writes"
        ) from None
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not written by launch/export.py: {error!r}") from error


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the points (cost, score) that no other beats in both, by cost."""
    order = sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1]))
    front: list[int] = []
    for index in order:
        if not front or points[index][1] > points[front[-1]][1]:
            front.append(index)
    return front


def describe(forms: Sequence[Form]) -> list[dict[str, Any]]:
    """Return the forms as JSON values."""
    return [dict(vars(form)) for form in forms]
