"""The cells of an evaluation: one fine-tuning run each, whose scores are kept and whose checkpoints are not.

<output>/cells/<model>/<task>/lr0.0001_seed17/made_with.json    what a cell is of, written first
<output>/cells/<model>/<task>/lr0.0001_seed17/scores.json       what a finished one gave, written last
<output>/cells/<model>/<task>/lock                           held by the process that makes these cells
"""

import json
import shutil
import statistics
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from launch.command_line.config_file import changed_keys
from launch.command_line.fingerprints import file_inputs, model_inputs
from launch.evaluation.config import Evaluation
from launch.job.machine import warn_of_emulation
from pretrain.device import device_name
from pretrain.durable import try_lock, write_durably
from pretrain.engines.deepspeed_config import AutocastConfig
from pretrain.precision import Dtype, native_dtypes
from pretrain.ranks.stopping import StopReason
from tasks.config import TaskConfig
from tasks.fine_tuning import FineTuned, FineTuningConfig, fine_tune, split_task
from tasks.kinds.kind import TaskData
from tasks.readers import read_task
from tasks.stage import release_memory

_CHOICE = {"learning_rates", "num_choosing_seeds"}  # which cells there are, not what each is


@dataclass(frozen=True)
class Cell:
    """One model on one task with one learning rate and seed."""

    model: str
    task: str
    learning_rate: float
    seed: int

    def folder(self, output: Path) -> Path:
        """Where its scores lie."""
        return group_folder(output, self.model, self.task) / f"lr{self.learning_rate:g}_seed{self.seed}"


def group_folder(output: Path, model: str, task: str) -> Path:
    """Of all cells of one model on one task, which one process makes."""
    return output / "cells" / model / task


def read_cell(cell: Cell, output: Path) -> FineTuned | None:
    """What a finished cell gave; ValueError where its file cannot be read."""
    path = cell.folder(output) / "scores.json"
    if not path.is_file():
        return None
    try:
        return FineTuned(**json.loads(path.read_text()))
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: not what an evaluation writes; remove it to have it made again") from error


def choose_learning_rate(evaluation: Evaluation, model: str, task: str, output: Path) -> float | None:
    """The best mean of the first seeds on the held-out examples, the smallest of equals; None before all are made.

    One rate needs no choice. Without held-out examples the development examples choose.
    """
    metric, found = evaluation.tasks[task].scored_by, {}
    rates = sorted(evaluation.config.fine_tuning.learning_rates)
    if len(rates) == 1:
        return rates[0]
    for rate in rates:
        made = [read_cell(Cell(model, task, rate, seed), output) for seed in evaluation.choosing_seeds]
        if None in made:
            return None
        found[rate] = statistics.fmean((cell.held_out or cell.dev)[metric] for cell in made if cell)
    return max(rates, key=lambda rate: found[rate])


def planned_cells(evaluation: Evaluation, model: str, task: str, output: Path) -> list[Cell]:
    """Every learning rate with the first seeds, then the best, once it is known, with all others."""
    rates, choosing = evaluation.config.fine_tuning.learning_rates, evaluation.choosing_seeds
    first = [Cell(model, task, rate, seed) for seed in choosing for rate in dict.fromkeys(rates)]
    best = choose_learning_rate(evaluation, model, task, output)
    return first + [Cell(model, task, best, seed) for seed in evaluation.seeds[len(choosing) :] if best]


def next_cell(evaluation: Evaluation, model: str, task: str, output: Path) -> Cell | None:
    """The first one that is not made yet."""
    cells = planned_cells(evaluation, model, task, output)
    return next((cell for cell in cells if read_cell(cell, output) is None), None)


def complete_models(evaluation: Evaluation, output: Path) -> dict[str, str]:
    """Those whose cells are all made, by whomever."""
    return {
        name: path
        for name, path in evaluation.models.items()
        if not any(next_cell(evaluation, name, task, output) for task in evaluation.tasks)
    }


def num_made(evaluation: Evaluation, output: Path) -> int:
    """How many cells are made, by whomever."""
    groups = [planned_cells(evaluation, *pair, output) for pair in product(evaluation.models, evaluation.tasks)]
    return sum(read_cell(cell, output) is not None for group in groups for cell in group)


def num_cells(evaluation: Evaluation) -> int:
    """How many there will be in all."""
    num_choosing = len(evaluation.choosing_seeds)
    each = len(set(evaluation.config.fine_tuning.learning_rates)) * num_choosing + len(evaluation.seeds) - num_choosing
    return len(evaluation.models) * len(evaluation.tasks) * each


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Whether these cells are this process's to make, for as long as it lives; another one may be making them."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as file:
        try:
            mine = try_lock(file)
        except OSError as error:
            mine, reason = True, f"its file system has no locks ({error.strerror})"
            warnings.warn(f"{folder}: {reason}; see to it that one worker is at it", stacklevel=3)
        yield mine


def make_cells(
    evaluation: Evaluation, output: Path, device: torch.device, stop_requested: Callable[[], StopReason]
) -> None:
    """Every cell that nobody has made or is making.

    Raises tasks.fine_tuning.Stopped where asked to, at the end ValueError listing the models that failed on a task.
    """
    failures = []
    for name, task in evaluation.tasks.items():
        data = read_task(task)
        for model in evaluation.models:
            with claimed(group_folder(output, model, name)) as mine:
                try:
                    if mine:
                        _make_group(evaluation, model, name, data, output, device, stop_requested)
                except torch.AcceleratorError:  # the device is of no use to the other models either
                    raise
                except (ValueError, RuntimeError) as error:  # a device without memory is a RuntimeError
                    if isinstance(error, RuntimeError):
                        traceback.print_exc()
                    failures.append(f"{model} on {name}: {error}")
    if failures:
        raise ValueError("\n".join(failures))


def _make_group(
    evaluation: Evaluation,
    model: str,
    task: str,
    data: TaskData,
    output: Path,
    device: torch.device,
    stop_requested: Callable[[], StopReason],
) -> None:
    """All cells of one model on one task, one after the other."""
    for folder in group_folder(output, model, task).glob("*/scores.json"):
        shutil.rmtree(folder.parent / "run", ignore_errors=True)  # of a process that was killed before it did so
    if next_cell(evaluation, model, task, output) is None:
        return
    config, path = evaluation.config, evaluation.models[model]
    made_with = identity(evaluation, model, task)
    split = split_task(evaluation.tasks[task], data, config.fine_tuning, path)
    while cell := next_cell(evaluation, model, task, output):
        release_memory()
        folder = cell.folder(output)
        folder.mkdir(exist_ok=True)
        write_durably(folder / "made_with.json", json.dumps(made_with, ensure_ascii=False, indent=2))
        loop = config.training.model_copy(update={"seed": cell.seed})
        scores = fine_tune(
            folder / "run", split, path, config.fine_tuning, cell.learning_rate, loop, config.deepspeed, device,
            stop_requested,
        )  # fmt: skip
        write_durably(folder / "scores.json", json.dumps(asdict(scores), indent=2))
        shutil.rmtree(folder / "run")


def identity(evaluation: Evaluation, model: str, task: str) -> dict[str, Any]:
    """What a cell is made from, apart from its learning rate and seed."""
    config, settings = evaluation.config, evaluation.tasks[task]
    return {
        "task": settings.model_dump(mode="json"),
        "files": file_inputs(settings),
        "model": model_inputs(evaluation.models[model]),
        "fine_tuning": config.fine_tuning.model_dump(mode="json", exclude=_CHOICE),
        "batch_rows": config.deepspeed.train_batch_size,
        "gradient_clipping": config.deepspeed.gradient_clipping,
        "precision": config.deepspeed.torch_autocast.wanted,
    }


def _completed(made_with: dict[str, Any]) -> dict[str, Any]:
    """What a cell was made from, as an earlier version noted it: keys that came since have their defaults."""
    task, recipe = (json.dumps(made_with[key]) for key in ("task", "fine_tuning"))
    made_with = dict(made_with)
    if "autocast" in made_with:
        made_with["precision"] = "bfloat16" if made_with.pop("autocast") else "float32"
    return made_with | {
        "task": TaskConfig.model_validate_json(task).model_dump(mode="json"),
        "fine_tuning": FineTuningConfig.model_validate_json(recipe).model_dump(mode="json", exclude=_CHOICE),
    }


def settle_precision(evaluation: Evaluation, output: Path, device: torch.device) -> Evaluation:
    """With the type that every model computes in: the one named, that of the cells there are, or the device's best.

    ValueError where the cells there are were computed in a type that the device would have to emulate.
    """
    config, key = evaluation.config, "deepspeed.torch_autocast"
    wanted, natives = config.deepspeed.torch_autocast.wanted, native_dtypes(device)
    made_in = _precision_of_cells(output)
    if wanted == "auto" and made_in and made_in not in natives:
        raise ValueError(
            f"{output}: what is there was computed in {made_in}, which {device_name(device)} has no instructions for; "
            f"give another --output, or --set {key}.dtype={made_in} to emulate it"
        )
    dtype = (made_in or natives[0]) if wanted == "auto" else wanted
    if dtype not in natives:
        warn_of_emulation(key, dtype, device)
    deepspeed = config.deepspeed.model_copy(update={"torch_autocast": AutocastConfig.of(dtype)})
    return replace(evaluation, config=config.model_copy(update={"deepspeed": deepspeed}))


def _precision_of_cells(output: Path) -> Dtype | None:
    for path in sorted(output.glob("cells/*/*/*/made_with.json")):
        with suppress(ValueError, KeyError, TypeError, AttributeError):  # check_cells names what cannot be read
            return _completed(json.loads(path.read_text()))["precision"]
    return None


def check_cells(evaluation: Evaluation, output: Path) -> None:
    """Refuse an output folder whose cells were made from other weights, files or with another recipe."""
    for model, task in product(evaluation.models, evaluation.tasks):
        made = sorted(group_folder(output, model, task).glob("*/made_with.json"))
        now = identity(evaluation, model, task) if made else {}
        for path in made:
            try:
                changed = changed_keys(_completed(json.loads(path.read_text())), now)
            except (ValueError, AttributeError, KeyError, TypeError) as error:
                raise ValueError(f"{path}: not what an evaluation writes; remove {path.parent}") from error
            if changed:
                what = f"was made with another {', '.join(changed)}"
                raise ValueError(f"{path.parent}: {what}; give another --output, or remove the folder")
