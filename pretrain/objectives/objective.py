"""The base classes of every objective and its configuration.

Shapes: B rows, L tokens, D hidden width, K layers. Every loss term is a float32 scalar, a mean in which padding does
not count. How it is taken matters as soon as rows have different numbers of real tokens:

* "rows": over the tokens of a row, then over rows; every row counts the same.
* "tokens": over all tokens of a step, of all ranks and micro-batches; every token counts the same.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from pretrain.models.encoder import Features, HuggingFaceModel, Reads
from pretrain.models.shape import EncoderShape
from pretrain.settings import Problems, Settings, Share


class WeightSchedule(Settings):
    """A weight that changes linearly from `start` to `end` between two points of the run."""

    start: Annotated[float, Field(ge=0)]
    end: Annotated[float, Field(ge=0)]
    begin: Share = 0.0  # share of the run's steps at which the change begins
    until: Share = 1.0  # and at which it ends

    @model_validator(mode="after")
    def _check_order(self) -> "WeightSchedule":
        if self.begin >= self.until:
            raise ValueError(f"begin ({self.begin}) must be less than until ({self.until})")
        if self.start == self.end == 0:
            raise ValueError("start and end are both 0: leave out the objective instead")
        return self

    def at(self, progress: float) -> float:
        """Return the weight when the share `progress` (0 to 1) of the run's steps is done."""
        done = min(max((progress - self.begin) / (self.until - self.begin), 0.0), 1.0)
        return self.start + (self.end - self.start) * done


Weight = Annotated[float, Field(gt=0)] | WeightSchedule
Reduction = Literal["tokens", "rows"]


class ObjectiveConfig(Settings):
    """The configuration of one objective, with facts about it that other code needs.

    To add an objective, subclass this and `Objective`, and add the subclass to registry.py; or, in another package,
    give its import path in a configuration: `"type": "my_package.my_module:MyObjectiveConfig"`.
    """

    needs_teacher: ClassVar[bool] = True
    reads_text_vectors: ClassVar[bool] = False  # compares vectors of rows, which must be a text each
    needs_student_head: ClassVar[bool] = False  # trains a masked-language head of the student
    reads_task_head: ClassVar[bool] = False  # reads the student's predictions for a labelled task
    reads_task_teacher: ClassVar[bool] = False  # reads the teacher's predictions too
    reads_order: ClassVar[bool] = False  # tells swapped pairs of texts from others
    samples_tokens: ClassVar[bool] = False  # replaces tokens that the student reads by sampled ones
    head_family: ClassVar[str | None] = None  # the family whose ForPreTraining class publishes this objective's head

    type: str
    weight: Weight = 1.0

    @property
    def needs_masking(self) -> bool:
        """Whether it predicts masked tokens, so that batches must be masked."""
        return False

    @property
    def needs_teacher_head(self) -> bool:
        """Whether it reads the teacher's masked-language head."""
        return False

    def problems(self, teacher: EncoderShape, student: EncoderShape) -> Problems:
        """Yield (key, message) for everything in this configuration that does not fit this pair of models."""
        return iter(())

    def build(self, teacher: EncoderShape, student: EncoderShape) -> "Objective":
        """Build the objective for this pair of models."""
        raise NotImplementedError(f"{type(self).__name__}.build")


class Objective(nn.Module):
    """One loss between a teacher and a student. Its projections, if any, are trained with the student.

    A subclass sets `weight`, and sets `teacher_reads` and `student_reads` to the features that its `forward` needs:
    nothing else is computed. If it averages over all tokens of a step it sets `reduction` to "tokens": batches then
    have the counts of `training.micro_batches.step_counts`.
    """

    reduction: Reduction = "rows"
    reads_labels: bool = False  # needs the positions of masked tokens without a masked-language head
    shares: Mapping[str, float] = MappingProxyType({})  # weights of the terms that do not have weight 1
    weight: Weight
    teacher_reads: Reads
    student_reads: Reads

    def attach(self, model: HuggingFaceModel) -> None:
        """Take what is needed of the student's whole model, such as a head of its own. Called once, before training."""

    def prepare(self, batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the batch as the student is to read it; `forward` gets the same."""
        return batch

    def forward(self, teacher: Features, student: Features, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the unweighted loss terms, float32 scalars, by metric name.

        Args:
            teacher: features [B, L, D_teacher] that `teacher_reads` asked for, without gradients.
            student: features [B, L, D_student] that `student_reads` asked for.
            batch: `input_ids` [B, L]; with padding `attention_mask` [B, L]; when masked `labels` [B, L], and so on.
        """
        raise NotImplementedError

    def start_from(self, basis: Tensor) -> None:
        """Start projections at `basis` [D_teacher, D_student], the map from the student's space to the teacher's."""

    def total(self, terms: dict[str, Tensor], progress: float = 0.0) -> Tensor:
        """Return the weighted sum of the terms; `progress` is the share of the run's steps that is done, 0 to 1."""
        weight = self.weight.at(progress) if isinstance(self.weight, WeightSchedule) else self.weight
        return weight * torch.stack([self.shares.get(name, 1.0) * value for name, value in terms.items()]).sum()


class ProjectedObjective(Objective):
    """An objective with one `projection`, a linear map from the student's width to the teacher's.

    Where no map is needed, as between equal widths, it is the identity and has no weights.
    """

    projection: nn.Module

    def __init__(self, teacher: EncoderShape, student: EncoderShape, is_needed: bool = True) -> None:
        super().__init__()
        equal = teacher.hidden_size == student.hidden_size
        widths = student.hidden_size, teacher.hidden_size
        self.projection = nn.Identity() if equal or not is_needed else nn.Linear(*widths, bias=False)

    def start_from(self, basis: Tensor) -> None:
        """Start the projection, if there is one, at `basis` [D_teacher, D_student]."""
        if isinstance(self.projection, nn.Linear):
            start_projection(self.projection, basis)


@torch.no_grad()
def start_projection(projection: nn.Linear, basis: Tensor) -> None:
    """Set a linear layer to the map `basis` [D_teacher, D_student] between the models' spaces, with bias 0."""
    projection.weight.copy_(basis)
    if projection.bias is not None:
        projection.bias.zero_()


def token_weights(mask: Tensor, reduction: Reduction = "rows", count: Tensor | None = None) -> Tensor:
    """Return token weights [B, L] by which a weighted sum is the mean of this reduction over the tokens in `mask`.

    Args:
        mask: bool [B, L], true at tokens that count.
        count: for "tokens", how many tokens count in a micro-batch of the step, on average; those of `mask` by default.
    """
    if reduction == "rows":
        return mask / (mask.sum(-1, keepdim=True).clamp(min=1) * len(mask))
    # A count below 1 is right, that of a step with fewer of them than micro-batches; 0 would make 0 / 0
    return mask / (mask.sum().clamp(min=1) if count is None else count.clamp(min=1e-6))
