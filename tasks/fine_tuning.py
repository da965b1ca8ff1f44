"""Fine-tuning of general models on a task, all in the same way, for a fair comparison."""

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
from pretrain.ranks.stopping import Stopped, StopReason
from pretrain.settings import Settings
from pretrain.training.trainer import LoopConfig
from tasks.config import TaskConfig
from tasks.examples import Example, text_of
from tasks.kinds.kind import TaskData
from tasks.label_objectives import LabelsConfig
from tasks.readers import encode
from tasks.rows import Row
from tasks.stage import EncodedTask, Stage, StageConfig, encode_task

_MARKS = re.compile(r"[_\[\]]")
LearningRate = Annotated[float, Field(gt=0)]


class FineTuningConfig(Settings):
    """How every model is fine-tuned on every task. Only the learning rate is chosen for each model and task.

    It is chosen by the score on training examples that are held out from training, so that the development examples are
    used only once.
    """

    learning_rates: Annotated[tuple[LearningRate, ...], Field(min_length=1)] = (2e-5, 5e-5, 1e-4, 3e-4)
    num_choosing_seeds: PositiveInt = 2  # for each rate; with one, a rate that fails for some seeds may be chosen
    epochs: Annotated[float, Field(gt=0)] = 3.0
    dropout_prob: Annotated[float, Field(ge=0, lt=1)] = 0.1
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    head_lr_ratio: Annotated[float, Field(gt=0)] = 1.0  # for head and pooler: times the encoder's learning rate
    schedule: ScheduleConfig = ScheduleConfig(warmup_ratio=0.1)
    max_train_examples: PositiveInt | None = None  # null: all; otherwise a random choice, the same for all models
    num_held_out: NonNegativeInt = 1000  # training examples for the choice of rates, at most a tenth of them

    def stage(self, learning_rate: float) -> StageConfig:
        """Return the configuration of one run as a stage."""
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
    """A task encoded for a model, with the held-out training examples for choosing the learning rate."""

    encoded: EncodedTask
    held_out: tuple[Example, ...]
    held_out_rows: list[Row]


@dataclass(frozen=True)
class FineTuned:
    """The result of one run: every metric on the held-out training examples and on the development examples."""

    held_out: dict[str, float]
    dev: dict[str, float]
    steps: int
    seconds: float


def split_task(task: TaskConfig, data: TaskData, config: FineTuningConfig, tokenizer_path: str) -> SplitTask:
    """Encode a task with its training examples split, the same for every model and seed.

    Raise ValueError if the tokenizer cannot be loaded.
    """
    held_out, train = split(data.train, config)
    encoded = encode_task(task, replace(data, train=train), tokenizer_path)
    return SplitTask(encoded, held_out, encode(held_out, task, data.labels, encoded.tokenizer).rows)


def split(examples: Sequence[Example], config: FineTuningConfig) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Split examples at random into (held out, training), each in the order of the file.

    Examples about the same text stay together: otherwise rates would be chosen on texts that were trained on. If the
    first text has more examples than wanted, all of them are held out, but none if they are more than half of all.
    """
    order = np.random.default_rng(0).permutation(len(examples)).tolist()
    wanted = min(config.num_held_out, len(examples) // 10)
    held_out: list[int] = []
    for group in _group_by_text(examples, order) if wanted else ():
        if held_out and len(held_out) + len(group) > wanted:
            break
        held_out += group
    if len(held_out) > len(examples) // 2:
        held_out = []
    taken = set(held_out)
    rest = [index for index in order if index not in taken][: config.max_train_examples]
    first, second = (tuple(examples[index] for index in sorted(part)) for part in (held_out, rest))
    return first, second


def _group_by_text(examples: Sequence[Example], order: Sequence[int]) -> Iterable[list[int]]:
    """Group the indices by the longest text of their examples, in this order.

    That is OCNLI's premise, CSL's abstract, CLUEWSC's text without its marks, or the passage of a question.
    """
    groups: dict[str, list[int]] = {}
    for index in order:
        groups.setdefault(_MARKS.sub("", max(text_of(examples[index]), key=len)), []).append(index)
    return groups.values()


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
    """Fine-tune one model on a task and score it.

    Args:
        run: folder for checkpoints and metrics; if it has a checkpoint, training resumes from it.
        model: folder or hub id of the model.
        loop: intervals and limits; its seed determines the new head, the order of examples and dropout.
        device: as returned by ranks.process_group.start_distributed, which must have been called.

    Raises:
        Stopped: if `stop_requested` returned a reason; a checkpoint is saved.
        ValueError: if the model cannot be loaded or its loss is not finite for too many steps.
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
