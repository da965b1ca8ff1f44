"""The configuration of an evaluation: models, tasks, seeds, and how models are fine-tuned."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.command_line.config_file import read_strictly
from launch.command_line.fingerprints import tokenizer_of
from pretrain.engines.deepspeed_config import DeepSpeedConfig
from pretrain.models.pretrained import read_shape
from pretrain.settings import Settings
from pretrain.training.trainer import LoopConfig
from tasks.config import TaskConfig
from tasks.fine_tuning import FineTuningConfig
from tasks.models import heads_of

TASK_FOLDER = Path(__file__).resolve().parents[2] / "configs/tasks"


class EvaluationConfig(Settings):
    """The settings of fine-tuning, the same for every model, task and seed."""

    about: str = ""  # a description for people
    fine_tuning: FineTuningConfig = FineTuningConfig()
    training: LoopConfig = LoopConfig(save_every_steps=1000, keep_checkpoints=1)
    deepspeed: DeepSpeedConfig


class _TaskFile(Settings):
    """A configuration file of launch/td.py, of which only the task is used here."""

    task: TaskConfig
    about: Any = None
    teacher: Any = None
    student: Any = None
    stages: Any = None
    training: Any = None
    deepspeed: Any = None


@dataclass(frozen=True)
class Evaluation:
    """Everything that the command line specifies. The others are compared with the first model."""

    config: EvaluationConfig
    models: dict[str, str]  # folder or hub id by name
    tasks: dict[str, TaskConfig]
    seeds: tuple[int, ...]

    @property
    def choosing_seeds(self) -> tuple[int, ...]:
        """The first seeds, with which every learning rate is tried."""
        return self.seeds[: self.config.fine_tuning.num_choosing_seeds]

    def check(self) -> None:
        """Raise ValueError listing models that cannot be loaded, are too short for a task or already fine-tuned."""
        self.config.deepspeed.warn(1)  # each worker is a job of one rank
        problems = []
        for name, path in self.models.items():
            try:
                shape = read_shape(path)
            except ValueError as error:
                problems.append(f"--models {name}: {error}")
                continue
            problems += self._other_problems(name, path)
            problems += [
                f"--models {name}: has {shape.max_row_tokens} positions, but {task.name} needs {task.row_tokens}"
                for task in self.tasks.values()
                if task.row_tokens > shape.max_row_tokens
            ]
        if problems:
            raise ValueError("\n".join(problems))

    def _other_problems(self, name: str, path: str) -> Iterator[str]:
        try:
            tokenizer_of(path)
        except ValueError as error:
            yield f"--models {name}: {error}"
        if heads := heads_of(path):
            what = f"is already fine-tuned (a {heads[0]}), so the comparison would not be fair"
            yield f"--models {name}: {path} {what}; give the model before fine-tuning"


def read_evaluation(
    config: Path, overrides: Sequence[str], models: Sequence[str], tasks: Sequence[str], num_seeds: int
) -> Evaluation:
    """Return the evaluation that a command line specifies. Raise ValueError naming the flag that is wrong."""
    if num_seeds < 1:
        raise ValueError(f"--seeds: must be at least 1, got {num_seeds}")
    decoded = read_strictly(EvaluationConfig, config, overrides)
    return Evaluation(
        decoded,
        _once(map(_model, models), "--models"),
        _once(((task.name, task) for task in (read_task_file(one, "--tasks") for one in tasks)), "--tasks"),
        tuple(range(decoded.training.seed, decoded.training.seed + num_seeds)),
    )


def _model(argument: str) -> tuple[str, str]:
    """Parse NAME=PATH, or a path whose last part is the name."""
    name, found, path = argument.partition("=")
    if not found:
        name, path = Path(argument).name, argument
    if not name or not path or "/" in name or name.startswith("."):
        raise ValueError(f"--models {argument}: must be NAME=PATH or a path")
    return name, path


def read_task_file(argument: str, flag: str) -> TaskConfig:
    """Read a task by the name of a file in configs/tasks or by a path, without texts for distillation alone.

    Raise ValueError naming the flag and what was given if there is no such file.
    """
    path = Path(argument) if argument.endswith(".json") else TASK_FOLDER / f"{argument}.json"
    if not path.is_file():
        known = ", ".join(sorted(one.stem for one in TASK_FOLDER.glob("*.json")))
        raise ValueError(f"{flag} {argument}: no such file; must be a path or one of {known}")
    return read_strictly(_TaskFile, path).task.labelled


def _once(pairs: Iterator[tuple[str, Any]], flag: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            remedy = "; give different names with NAME=PATH" if flag == "--models" else ""
            raise ValueError(f"{flag} {name}: given twice{remedy}")
        found[name] = value
    return found
