"""A training run as it lies on disk: `metrics.jsonl`, `config.json` and `run.json` in the run's folder."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.command_line.wording import duration
from pretrain.training.metrics import loss_terms, read_metrics


@dataclass(frozen=True)
class Run:
    """`metrics`: one record a logged step, by step, each the last that was written for it (a continued run
    logs some steps again). `config`: the resolved configuration. `facts`: what the trainer noted."""

    metrics: list[dict[str, float]]
    config: dict[str, Any]
    facts: dict[str, Any]

    @property
    def students(self) -> list[str]:
        """Names of the students, in the configuration's order."""
        return [student["name"] for student in self.config["students"]]

    def series(self, name: str) -> tuple[list[float], list[float]]:
        """(steps, values) of one metric where it was logged and finite."""
        points = [(r["step"], r[name]) for r in self.metrics if math.isfinite(r.get(name, math.nan))]
        return [step for step, _ in points], [value for _, value in points]

    @property
    def teacher_accuracy(self) -> float | None:
        """What the run's probe gave of its teacher."""
        probe = self.facts.get("probe")
        accuracy = probe.get("teacher_accuracy") if isinstance(probe, dict) else None
        return accuracy if isinstance(accuracy, float) and 0 <= accuracy <= 1 else None

    def loss_terms(self, student: str) -> list[str]:
        """Names of the student's loss and of its terms, the loss first, then by name."""
        logged = {name for record in self.metrics for name in loss_terms(record, student)}
        return sorted(logged, key=lambda name: (name != "loss", name))


def read_run(folder: Path) -> Run:
    """The run in `folder`. ValueError naming the file (and line) that is missing, empty or broken."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such run folder")
    config, facts = read_object(folder / "config.json"), read_object(folder / "run.json")
    students = config.get("students")
    named = isinstance(students, list) and all(isinstance(s, dict) and "name" in s for s in students)
    if not named or not students:
        raise ValueError(f"{folder / 'config.json'}: want a list of students, each with a name")
    if config.get("teacher", {}) is None:
        raise ValueError(f"{folder / 'config.json'}: the run had no teacher to compare its students with")
    return Run(read_metrics(folder), config, facts)


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in `path`. ValueError naming the file."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; is {path.parent} the folder of a run?") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: want a JSON object")
    return value


def summarise(run: Run, teacher: Mapping[str, Any]) -> str:
    """Return what was distilled, in one sentence.

    Raise ValueError where config.json or metrics.jsonl is not what a run writes.
    """
    try:
        return _summary(run, teacher)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"config.json or metrics.jsonl of the run: not what a run writes: {error!r}") from error


def _summary(run: Run, teacher: Mapping[str, Any]) -> str:
    students = [f"{s['name']} ({s['num_layers']} layers × {s['hidden_size']})" for s in run.config["students"]]
    last = run.metrics[-1]
    return (
        f"{', '.join(students)} learned from {Path(run.config['teacher']['path']).name} "
        f"({teacher['num_layers']} layers × {teacher['hidden_size']}, {teacher['num_parameters'] / 1e6:.1f} "
        f"million parameters) by reading {last['tokens'] / 1e6:.1f} million tokens of unlabelled text in "
        f"{last['step']:,.0f} steps, {duration(last['seconds'])}."
    )
