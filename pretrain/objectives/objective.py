"""What every objective is: it says what it reads of teacher and student, and turns that into weighted loss terms.

Shapes: B rows, L tokens, D hidden width, K layers. Every term is a float32 scalar; padding is excluded exactly: the
mean is over the real tokens of a row, then over rows.
"""

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from pretrain.models.encoder import Features, Reads
from pretrain.settings import Settings, Share


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


class Objective(nn.Module):
    """One loss family between one teacher and one student; its projections, if any, train with the student."""

    weight: Weight
    teacher_reads: Reads
    student_reads: Reads

    def forward(self, teacher: Features, student: Features, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Unweighted loss terms by metric name, float32 scalars."""
        raise NotImplementedError

    def start_from(self, basis: Tensor) -> None:
        """Start at `basis` [D_teacher, D_student], the map from the student's width to the teacher's."""

    def total(self, terms: dict[str, Tensor], progress: float = 0.0) -> Tensor:
        """The weighted sum that is trained on, at that share of the run's steps."""
        weight = self.weight.at(progress) if isinstance(self.weight, WeightSchedule) else self.weight
        return weight * torch.stack(list(terms.values())).sum()


def token_weights(mask: Tensor) -> Tensor:
    """Weight of each token [B, L] that makes a sum the mean over the real tokens of a row, then over rows."""
    return mask / (mask.sum(-1, keepdim=True).clamp(min=1) * len(mask))
