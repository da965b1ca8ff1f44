"""The cells of an evaluation: a cell is one fine-tuning run, of which the scores are kept but no checkpoint.

<output>/cells/<model>/<task>/lr0.0001_seed17/made_with.json    what the cell is made from, written first
<output>/cells/<model>/<task>/lr0.0001_seed17/scores.json       the result, written last
<output>/cells/<model>/<task>/lock                              locked by the process that makes these cells
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

_CHOICE = {"learning_rates", "num_choosing_seeds"}  # keys that decide which cells there are, not what is in one


@dataclass(frozen=True)
class Cell:
    """One model on one task with one learning rate and seed."""

    model: str
    task: str
    learning_rate: float
    seed: int

    def folder(self, output: Path) -> Path:
        """Return the folder of this cell."""
        return group_folder(output, self.model, self.task) / f"lr{self.learning_rate:g}_seed{self.seed}"


def group_folder(output: Path, model: str, task: str) -> Path:
    """Return the folder of all cells of one model on one task, which a single process makes."""
    return output / "cells" / model / task


def read_cell(cell: Cell, output: Path) -> FineTuned | None:
    """Return the result of a cell; None if it is not finished. Raise ValueError if its file cannot be read."""
    path = cell.folder(output) / "scores.json"
    if not path.is_file():
        return None
    try:
        return FineTuned(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: not written by an evaluation; remove it to repeat this run") from error


def choose_learning_rate(evaluation: Evaluation, model: str, task: str, output: Path) -> float | None:
    """Return the rate with the best mean score of the first seeds on held-out examples; None before all are finished.

    Of equal rates return the smallest. Without held-out examples, use the development examples.
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
    """Return the cells of a model on a task: all rates with the first seeds, then the best rate with the other seeds.

    The latter are missing as long as the best rate is not known.
    """
    rates, choosing = evaluation.config.fine_tuning.learning_rates, evaluation.choosing_seeds
    first = [Cell(model, task, rate, seed) for seed in choosing for rate in dict.fromkeys(rates)]
    best = choose_learning_rate(evaluation, model, task, output)
    return first + [Cell(model, task, best, seed) for seed in evaluation.seeds[len(choosing) :] if best]


def next_cell(evaluation: Evaluation, model: str, task: str, output: Path) -> Cell | None:
    """Return the first cell that is not finished, or None."""
    cells = planned_cells(evaluation, model, task, output)
    return next((cell for cell in cells if read_cell(cell, output) is None), None)


def complete_models(evaluation: Evaluation, output: Path) -> dict[str, str]:
    """Return the models whose cells are all finished, by this or by other machines."""
    return {
        name: path
        for name, path in evaluation.models.items()
        if not any(next_cell(evaluation, name, task, output) for task in evaluation.tasks)
    }


def num_made(evaluation: Evaluation, output: Path) -> int:
    """Return the number of finished cells, by this and by other machines."""
    groups = [planned_cells(evaluation, *pair, output) for pair in product(evaluation.models, evaluation.tasks)]
    return sum(read_cell(cell, output) is not None for group in groups for cell in group)


def num_cells(evaluation: Evaluation) -> int:
    """Return the number of cells of the whole evaluation."""
    num_choosing = len(evaluation.choosing_seeds)
    each = len(set(evaluation.config.fine_tuning.learning_rates)) * num_choosing + len(evaluation.seeds) - num_choosing
    return len(evaluation.models) * len(evaluation.tasks) * each


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Lock a group of cells inside the block; yield False if another process has locked it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as file:
        try:
            mine = try_lock(file)
        except OSError as error:
            mine, reason = True, f"its file system has no locks ({error.strerror})"
            warnings.warn(f"{folder}: {reason}; make sure that only one worker uses it", stacklevel=3)
        yield mine


def make_cells(
    evaluation: Evaluation, output: Path, device: torch.device, stop_requested: Callable[[], StopReason]
) -> None:
    """Make all cells that are not finished and that no other process is making.

    Raise Stopped if asked to stop, and at the end ValueError listing every model and task that
    failed.
    """
    failures = []
    for name, task in evaluation.tasks.items():
        data = read_task(task)
        for model in evaluation.models:
            with claimed(group_folder(output, model, name)) as mine:
                try:
                    if mine:
                        _make_group(evaluation, model, name, data, output, device, stop_requested)
                except torch.AcceleratorError:  # the device is unusable for the other models too
                    raise
                except (ValueError, RuntimeError) as error:  # RuntimeError includes a device out of memory
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
    """Make all unfinished cells of one model on one task, one after the other."""
    for folder in group_folder(output, model, task).glob("*/scores.json"):
        shutil.rmtree(folder.parent / "run", ignore_errors=True)  # left by a process that was killed
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
    """Return what a cell is made from, without its learning rate and seed."""
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
    """Add keys of newer versions, with their defaults, to what an earlier version wrote to made_with.json."""
    task, recipe = (json.dumps(made_with[key]) for key in ("task", "fine_tuning"))
    made_with = dict(made_with)
    if "autocast" in made_with:
        made_with["precision"] = "bfloat16" if made_with.pop("autocast") else "float32"
    return made_with | {
        "task": TaskConfig.model_validate_json(task).model_dump(mode="json"),
        "fine_tuning": FineTuningConfig.model_validate_json(recipe).model_dump(mode="json", exclude=_CHOICE),
    }


def settle_precision(evaluation: Evaluation, output: Path, device: torch.device) -> Evaluation:
    """Return the evaluation with the type that all models compute in.

    That is the configured one, otherwise that of finished cells, otherwise the device's best. Raise ValueError if
    finished cells have a type that the device would emulate.
    """
    config, key = evaluation.config, "deepspeed.torch_autocast"
    wanted, natives = config.deepspeed.torch_autocast.wanted, native_dtypes(device)
    made_in = _precision_of_cells(output)
    if wanted == "auto" and made_in and made_in not in natives:
        raise ValueError(
            f"{output}: finished runs used {made_in}, for which {device_name(device)} has no instructions; give "
            f"another --output, or --set {key}.dtype={made_in} to emulate it"
        )
    dtype = (made_in or natives[0]) if wanted == "auto" else wanted
    if dtype not in natives:
        warn_of_emulation(key, dtype, device)
    deepspeed = config.deepspeed.model_copy(update={"torch_autocast": AutocastConfig.of(dtype)})
    return replace(evaluation, config=config.model_copy(update={"deepspeed": deepspeed}))


def _precision_of_cells(output: Path) -> Dtype | None:
    for path in sorted(output.glob("cells/*/*/*/made_with.json")):
        with suppress(ValueError, KeyError, TypeError, AttributeError):  # check_cells reports unreadable files
            return _completed(json.loads(path.read_text(encoding="utf-8")))["precision"]
    return None


def check_cells(evaluation: Evaluation, output: Path) -> None:
    """Raise ValueError if cells in the output folder were made from other weights, files or settings."""
    for model, task in product(evaluation.models, evaluation.tasks):
        made = sorted(group_folder(output, model, task).glob("*/made_with.json"))
        now = identity(evaluation, model, task) if made else {}
        for path in made:
            try:
                changed = changed_keys(_completed(json.loads(path.read_text(encoding="utf-8"))), now)
            except (ValueError, AttributeError, KeyError, TypeError) as error:
                raise ValueError(f"{path}: not written by an evaluation; remove {path.parent}") from error
            if changed:
                what = f"was made with another {', '.join(changed)}"
                raise ValueError(f"{path.parent}: {what}; give another --output, or remove the folder")
