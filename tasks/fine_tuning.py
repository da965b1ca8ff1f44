"""Fine-tuning a general model on a task the same way as any other: what an evaluation is made of."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveInt

from pretrain.engines.deepspeed_config import DeepSpeedConfig
from pretrain.optimizer import OptimizerConfig, ScheduleConfig
from pretrain.ranks.stopping import StopReason
from pretrain.settings import Settings
from pretrain.training.trainer import LoopConfig
from tasks.config import TaskConfig
from tasks.examples import Example, text_of
from tasks.label_objectives import LabelsConfig
from tasks.readers import TaskData
from tasks.rows import Row, encode
from tasks.stage import EncodedTask, Stage, StageConfig, encode_task

_MARKS = re.compile(r"[_\[\]]")
LearningRate = Annotated[float, Field(gt=0)]


class FineTuningConfig(Settings):
    """How every model is fine-tuned on every task. Only the learning rate is chosen for each model and task.

    It is chosen on training examples that no model is trained on, so that the development examples are not asked twice.
    """

    learning_rates: Annotated[tuple[LearningRate, ...], Field(min_length=1)] = (2e-5, 5e-5, 1e-4, 3e-4)
    num_choosing_seeds: PositiveInt = 2  # try every rate; with one, a rate that fails now and then may be chosen
    epochs: Annotated[float, Field(gt=0)] = 3.0
    dropout_prob: Annotated[float, Field(ge=0, lt=1)] = 0.1
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    head_lr_ratio: Annotated[float, Field(gt=0)] = 1.0  # learning rate of head and pooler in the encoder's
    schedule: ScheduleConfig = ScheduleConfig(warmup_ratio=0.1)
    max_train_examples: PositiveInt | None = None  # drawn once, the same for all models; all of them unless given
    num_held_out: NonNegativeInt = 1000  # training examples for the choice, at most a tenth of them

    def stage(self, learning_rate: float) -> StageConfig:
        """The stage that one run is."""
        return StageConfig(
            epochs=self.epochs,
            dropout_prob=self.dropout_prob,
            optimizer=OptimizerConfig(
                lr=learning_rate, weight_decay=self.weight_decay, head_lr_ratio=self.head_lr_ratio
            ),
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


def split_task(task: TaskConfig, data: TaskData, config: FineTuningConfig, tokenizer_path: str) -> SplitTask:
    """The same division of the training examples for every model and seed."""
    held_out, train = split(data.train, config)
    encoded = encode_task(task, replace(data, train=train), tokenizer_path)
    return SplitTask(encoded, held_out, encode(held_out, task, data.labels, encoded.tokenizer).rows)


def split(examples: Sequence[Example], config: FineTuningConfig) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """(held out, trained on), each in the order of the file, drawn once.

    Examples about one text stay together, or a rate would be chosen by what was trained on: more than wanted are held
    out where the first text has more, up to half of all, and none where it has more than that.
    """
    order = np.random.default_rng(0).permutation(len(examples)).tolist()
    wanted = min(config.num_held_out, len(examples) // 10)
    held_out: list[int] = []
    for group in _about_one_text(examples, order) if wanted else ():
        if held_out and len(held_out) + len(group) > wanted:
            break
        held_out += group
    if len(held_out) > len(examples) // 2:
        held_out = []
    taken = set(held_out)
    rest = [index for index in order if index not in taken][: config.max_train_examples]
    first, second = (tuple(examples[index] for index in sorted(part)) for part in (held_out, rest))
    return first, second


def _about_one_text(examples: Sequence[Example], order: Sequence[int]) -> Iterable[list[int]]:
    """The indices, those together whose longest text is one: OCNLI's premise, CSL's abstract, CLUEWSC's text but for
    its marks, a passage that is read."""
    groups: dict[str, list[int]] = {}
    for index in order:
        groups.setdefault(_MARKS.sub("", max(text_of(examples[index]), key=len)), []).append(index)
    return groups.values()


class Stopped(Exception):
    """The process was asked to stop; the run goes on from its checkpoint when it is made again."""


def fine_tune(
    run: Path,
    task: SplitTask,
    model: str,
    config: FineTuningConfig,
    learning_rate: float,
    loop: LoopConfig,
    deepspeed: DeepSpeedConfig,
    device: torch.device,
    stop_requested: Callable[[], StopReason] = lambda: StopReason.NONE,
) -> FineTuned:
    """Train and score one model; `run` holds its checkpoints, `loop.seed` draws its head, order and dropout.

    Raises Stopped where `stop_requested` said so, ValueError where the model or the training cannot go on.
    """
    stage = Stage(
        run, "model", task.encoded, config.stage(learning_rate), model, None, "float32", loop, deepspeed, device,
        stop_requested,
    )  # fmt: skip
    if stage.trainer.train():
        raise Stopped
    dev = stage.score(task.encoded.dev, task.encoded.data.dev)
    held_out = stage.score(task.held_out_rows, task.held_out) if task.held_out else {}
    state = stage.trainer.state
    return FineTuned(held_out, dev, state.step, state.seconds)
