"""Fine-tuning a general model on a task the same way as any other: what an evaluation is made of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveInt

from pretrain.engine import DeepSpeedConfig
from pretrain.optimizer import OptimizerConfig, ScheduleConfig
from pretrain.settings import Settings
from pretrain.trainer import LoopConfig
from tasks.encoding import Row, encode
from tasks.examples import Example, Question
from tasks.objectives import LabelsConfig
from tasks.readers import TaskData
from tasks.settings import TaskConfig
from tasks.stage import EncodedTask, Stage, StageConfig, encode_task

LearningRate = Annotated[float, Field(gt=0)]


class FineTuningConfig(Settings):
    """How every model is fine-tuned on every task. Only the learning rate is chosen for each model and task.

    It is chosen on training examples that no model is trained on, so that the development examples are not asked twice.
    """

    learning_rates: Annotated[tuple[LearningRate, ...], Field(min_length=1)] = (5e-5, 1e-4, 3e-4)
    num_choosing_seeds: PositiveInt = 2  # try every rate; with one, a rate that fails now and then may be chosen
    epochs: Annotated[float, Field(gt=0)] = 3.0
    dropout_prob: Annotated[float, Field(ge=0, lt=1)] = 0.1
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    schedule: ScheduleConfig = ScheduleConfig(warmup_ratio=0.1)
    max_train_examples: PositiveInt | None = None  # drawn once, the same for all models; all of them unless given
    num_held_out: NonNegativeInt = 1000  # training examples for the choice, at most a tenth of them

    def stage(self, learning_rate: float) -> StageConfig:
        """The stage that one run is."""
        return StageConfig(
            epochs=self.epochs,
            dropout_prob=self.dropout_prob,
            optimizer=OptimizerConfig(lr=learning_rate, weight_decay=self.weight_decay),
            schedule=self.schedule,
            objective=[LabelsConfig(type="labels")],
        )


@dataclass(frozen=True)
class SplitTask:
    """A task in a model's ids, with the training examples that the learning rate is chosen on."""

    encoded: EncodedTask
    held_out: tuple[Example, ...]
    held_out_rows: list[Row]


@dataclass(frozen=True)
class FineTuned:
    """What one run gave: every metric on the examples held out of training and on the development examples."""

    held_out: dict[str, float]
    dev: dict[str, float]
    steps: int
    seconds: float


def split_task(config: TaskConfig, data: TaskData, recipe: FineTuningConfig, tokenizer_path: str) -> SplitTask:
    """The same division of the training examples for every model and seed."""
    held_out, train = split(data.train, recipe)
    encoded = encode_task(config, replace(data, train=train), tokenizer_path)
    return SplitTask(encoded, held_out, encode(held_out, config, data.labels, encoded.tokenizer))


def split(examples: Sequence[Example], recipe: FineTuningConfig) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """(held out, trained on), each in the order of the file.

    Questions about one text stay together: more than wanted are held out where the first text has more, up to half of
    all, and none where it has more than that.
    """
    drawn = _drawn(examples)
    wanted = min(recipe.num_held_out, len(examples) // 10)
    sources = [_source(examples, index) for index in drawn[: len(examples) // 2 + 1]]
    ends = [end for end in range(1, len(sources)) if sources[end - 1] != sources[end]]
    num_held_out = max((end for end in ends if end <= wanted), default=min(ends, default=0)) if wanted else 0
    end = num_held_out + recipe.max_train_examples if recipe.max_train_examples else None
    parts = (sorted(drawn[:num_held_out]), sorted(drawn[num_held_out:end]))
    first, second = (tuple(examples[index] for index in part) for part in parts)
    return first, second


def _drawn(examples: Sequence[Example]) -> list[int]:
    """Indices in an order drawn once; questions about one text are together, so that it is not on both sides."""
    groups: dict[int | str, list[int]] = {}
    for index in np.random.default_rng(0).permutation(len(examples)).tolist():
        groups.setdefault(_source(examples, index), []).append(index)
    return [index for group in groups.values() for index in group]


def _source(examples: Sequence[Example], index: int) -> int | str:
    example = examples[index]
    return example.text if isinstance(example, Question) else index


class Stopped(Exception):
    """The process was asked to stop; the run goes on from its checkpoint when it is made again."""


def fine_tune(
    run: Path,
    task: SplitTask,
    model: str,
    recipe: FineTuningConfig,
    learning_rate: float,
    loop: LoopConfig,
    deepspeed: DeepSpeedConfig,
    device: torch.device,
    stop_requested: Callable[[], int] = lambda: 0,
) -> FineTuned:
    """Train and score one model; `run` holds its checkpoints, `loop.seed` draws its head, order and dropout.

    Raises Stopped where `stop_requested` said so, ValueError where the model or the training cannot go on.
    """
    stage = Stage(
        run, "model", task.encoded, recipe.stage(learning_rate), model, None, "float32", loop, deepspeed, device,
        stop_requested,
    )  # fmt: skip
    if stage.trainer.train():
        raise Stopped
    dev = stage.score(task.encoded.dev, task.encoded.data.dev)
    held_out = stage.score(task.held_out_rows, task.held_out) if task.held_out else {}
    state = stage.trainer.state
    return FineTuned(held_out, dev, state.step, state.seconds)
