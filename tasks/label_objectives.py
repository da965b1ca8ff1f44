"""Losses of a task's prediction layer, and the registry of all objectives of task stages.

Shapes: B rows, L tokens, C classes. Logits are [B, C] for classes of texts, [B, L, C] for classes of tokens (entities),
[B, L, 2] for the start and end of an answer (reading), and [N, 1] for the N choices of all rows (multiple choice).
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, SerializeAsAny, WrapValidator
from torch import Tensor

from pretrain.models.encoder import Features, Reads, real_tokens
from pretrain.models.shape import EncoderShape
from pretrain.objectives.objective import Objective, ObjectiveConfig, Reduction, token_weights
from pretrain.objectives.registry import EncoderObjective, Registry
from pretrain.objectives.relation_loss import MASKED
from tasks.rows import IGNORED, UNLABELLED


class LabelsConfig(ObjectiveConfig):
    """Cross-entropy against the labels: fine-tuning, and the hard half of TD2.

    The mean is over all labels of a step, as in transformers: with entities, long texts then count more. Texts without
    labels (`task.augmented`, `task.unlabelled`) count nowhere.
    """

    needs_teacher = False
    reads_task_head = True

    type: Literal["labels"]
    reduction: Reduction = "tokens"  # the mean over all labels of a step, or over those of a row, then rows

    def build(self, teacher: EncoderShape, student: EncoderShape) -> "Labels":
        """Build the objective."""
        return Labels(self)


class SoftLabelsConfig(ObjectiveConfig):
    """Cross-entropy against the teacher's predictions at a temperature T (arXiv:1503.02531), times T^2 as there.

    Of several teachers the probabilities are averaged, after the softmax at T: an average of logits would be that of
    no teacher's. The factor keeps the size of the gradient. With T = 1 this is TinyBERT's prediction-layer distillation
    (arXiv:1909.10351, equation 10).
    """

    reads_task_head = reads_task_teacher = True

    type: Literal["soft_labels"]
    temperature: Annotated[float, Field(gt=0)] = 1.0
    reduction: Reduction = "tokens"  # the mean over all labels of a step, or over those of a row, then rows

    def build(self, teacher: EncoderShape, student: EncoderShape) -> "SoftLabels":
        """Build the objective."""
        return SoftLabels(self)


class LogitsMSEConfig(ObjectiveConfig):
    """Mean squared error of the logits against the teacher's (arXiv:1903.12136): soft labels at a high temperature.

    Of several teachers the errors are averaged.
    """

    reads_task_head = reads_task_teacher = True

    type: Literal["logits_mse"]
    reduction: Reduction = "tokens"  # the mean over all labels of a step, or over those of a row, then rows

    def build(self, teacher: EncoderShape, student: EncoderShape) -> "LogitsMSE":
        """Build the objective."""
        return LogitsMSE(self)


LabelObjective = LabelsConfig | SoftLabelsConfig | LogitsMSEConfig
TASK = Registry(LabelObjective | EncoderObjective)
TaskObjective = Annotated[
    SerializeAsAny[LabelObjective | EncoderObjective | ObjectiveConfig], WrapValidator(TASK.validate)
]


class Labels(Objective):
    """Cross-entropy against the labels."""

    def __init__(self, config: LabelsConfig) -> None:
        super().__init__()
        self.weight, self.reduction = config.weight, config.reduction
        self.teacher_reads, self.student_reads = Reads(), Reads(logits=True)

    def forward(self, teacher: Features, student: Features, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the term `labels`."""
        assert student.logits is not None
        logits, labels = choices(student.logits, batch)
        labels = labels.masked_fill(labels == UNLABELLED, IGNORED)
        losses = torch.nn.functional.cross_entropy(
            logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="none"
        )
        return {"labels": _mean(losses.view(labels.shape), labels != IGNORED, self.reduction, batch.get("num_known"))}


class _Predictions(Objective):
    """A loss of the student's logits against the teachers', for the same choices as the loss of the labels."""

    def __init__(self, config: SoftLabelsConfig | LogitsMSEConfig) -> None:
        super().__init__()
        self.term, self.weight, self.reduction = config.type, config.weight, config.reduction
        self.teacher_reads = self.student_reads = Reads(logits=True)

    def forward(self, teacher: Features, student: Features, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the one term, which is called by the type of the objective."""
        assert student.logits is not None
        logits, labels = choices(student.logits, batch)
        losses = self.losses([(share, choices(one, batch)[0]) for share, one in _taught(teacher)], logits)
        return {self.term: _mean(losses, labels != IGNORED, self.reduction, batch.get("num_labelled"))}

    def losses(self, teachers: Sequence[tuple[float, Tensor]], student: Tensor) -> Tensor:
        """Return the losses [B, N] of logits [B, N, C]; the shares of the teachers add up to 1."""
        raise NotImplementedError


class SoftLabels(_Predictions):
    """Cross-entropy against the teacher's predictions."""

    def __init__(self, config: SoftLabelsConfig) -> None:
        super().__init__(config)
        self.temperature = config.temperature

    def losses(self, teachers: Sequence[tuple[float, Tensor]], student: Tensor) -> Tensor:
        """Return the cross-entropy at the temperature T, times T^2."""
        targets = torch.zeros((), device=student.device)
        for share, logits in teachers:
            targets = targets + share * (logits / self.temperature).softmax(-1)
        return -(targets * (student / self.temperature).log_softmax(-1)).sum(-1) * self.temperature**2


class LogitsMSE(_Predictions):
    """Mean squared error of the logits; impossible choices, whose logits are equal, do not count."""

    def losses(self, teachers: Sequence[tuple[float, Tensor]], student: Tensor) -> Tensor:
        """Return the mean over the possible choices."""
        errors = torch.zeros((), device=student.device)
        for share, logits in teachers:
            errors = errors + share * (student - logits).square()
        return errors.sum(-1) / (student != MASKED).sum(-1)


def _taught(teacher: Features) -> list[tuple[float, Tensor]]:
    """Return the logits of every teacher with its share of 1."""
    return [(share, one.logits) for share, one in teacher.several or [(1.0, teacher)] if one.logits is not None]


def choices(logits: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return float32 logits [B, N, C] of the N choices of a row, and their labels [B, N].

    One choice per text, one per token, or two among the tokens of a row: the start and the end of its answer. In
    multiple choice C is the largest number of answers of a row; rows with fewer are filled up with impossible ones.
    """
    logits = logits.float()
    if "num_choices" in batch:
        answers = logits.squeeze(1).split(batch["num_choices"].tolist())
        logits = torch.nn.utils.rnn.pad_sequence(answers, batch_first=True, padding_value=MASKED)
    if "start_positions" in batch:
        logits = logits.masked_fill(~real_tokens(batch).unsqueeze(-1), MASKED).transpose(1, 2)
        return logits, torch.stack([batch["start_positions"], batch["end_positions"]], dim=1)
    if logits.dim() == 2:
        return logits.unsqueeze(1), batch["labels"].unsqueeze(1)
    return logits, batch["labels"]


def _mean(losses: Tensor, counted: Tensor, reduction: Reduction, count: Tensor | None) -> Tensor:
    """Return the mean of the losses [B, N] that are counted; `count` is their mean number in a micro-batch."""
    return (losses * token_weights(counted, reduction, count)).sum()
