"""The base classes of every objective and its configuration.

Shapes: B rows, L tokens, D hidden width, K layers. Every loss term is a float32 scalar; padding is excluded exactly:
the mean is over the real tokens of a row, then over rows.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from pretrain.models.encoder import EncoderShape, Features, Reads
from pretrain.settings import Problems, Settings, Share


class WeightSchedule(Settings):
    """A weight that goes in a straight line from `start` to `end` between two shares of the run's steps."""

    start: Annotated[float, Field(ge=0)]
    end: Annotated[float, Field(ge=0)]
    begin: Share = 0.0
    until: Share = 1.0

    @model_validator(mode="after")
    def _check_order(self) -> "WeightSchedule":
        if self.begin >= self.until:
            raise ValueError(f"begin ({self.begin}) must lie before until ({self.until})")
        if self.start == self.end == 0:
            raise ValueError("start and end are both 0: leave the objective out")
        return self

    def at(self, progress: float) -> float:
        """The weight at that share of the run."""
        done = min(max((progress - self.begin) / (self.until - self.begin), 0.0), 1.0)
        return self.start + (self.end - self.start) * done


Weight = Annotated[float, Field(gt=0)] | WeightSchedule


class ObjectiveConfig(Settings):
    """The configuration of one objective, and the facts that the rest of the code asks of it.

    To add an objective, subclass this and `Objective`, and name the subclass in registry.py; or, from outside this
    project, name it in a configuration: `"type": "my_package.my_module:MyObjectiveConfig"`.
    """

    needs_teacher: ClassVar[bool] = True
    compares_all_tokens: ClassVar[bool] = False  # every two tokens of a row, those of different documents too
    needs_student_head: ClassVar[bool] = False  # a masked-language head
    reads_task_head: ClassVar[bool] = False  # the student's predictions for a labelled task
    reads_task_teacher: ClassVar[bool] = False  # and the teacher's

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
        """Yield (key, message) for everything that cannot work for this pair of models."""
        return iter(())

    def build(self, teacher: EncoderShape, student: EncoderShape) -> "Objective":
        """Build the objective for this pair of models."""
        raise NotImplementedError(f"{type(self).__name__}.build")


class Objective(nn.Module):
    """One loss between one teacher and one student; its projections, if any, train with the student.

    A subclass sets `weight`, and in `teacher_reads` and `student_reads` what its `forward` reads of the two models:
    only that is computed.
    """

    weight: Weight
    teacher_reads: Reads
    student_reads: Reads

    def forward(self, teacher: Features, student: Features, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the unweighted loss terms by metric name, float32 scalars."""
        raise NotImplementedError

    def start_from(self, basis: Tensor) -> None:
        """Start at `basis` [D_teacher, D_student], the map from the student's width to the teacher's."""

    def total(self, terms: dict[str, Tensor], progress: float = 0.0) -> Tensor:
        """Return the weighted sum to train on; `progress` is the share of the run's steps done, 0 to 1."""
        weight = self.weight.at(progress) if isinstance(self.weight, WeightSchedule) else self.weight
        return weight * torch.stack(list(terms.values())).sum()


def token_weights(mask: Tensor) -> Tensor:
    """Weight of each token [B, L] that makes a sum the mean over the real tokens of a row, then over rows."""
    return mask / (mask.sum(-1, keepdim=True).clamp(min=1) * len(mask))
