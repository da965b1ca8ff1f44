"""What every objective is: it says what it reads of teacher and student, and turns that into weighted loss terms.

Shapes: B rows, L tokens, D hidden width, K layers. Every term is a float32 scalar; padding is excluded exactly: the
mean is over the real tokens of a row, then over rows.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from pretrain.encoder import EncoderShape, Features, Reads
from pretrain.settings import Settings

LayerMap = Literal["uniform", "last"] | list[PositiveInt]
Problems = Iterator[tuple[str, str]]
Share = Annotated[float, Field(ge=0, le=1)]


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


def mapped_layers(layer_map: LayerMap, num_teacher_layers: int, num_student_layers: int) -> list[int]:
    """TinyBERT's g(m) for m = 1 to the student's layers: every k-th teacher layer, the last ones or the listed ones."""
    if isinstance(layer_map, list):
        return list(layer_map)
    if layer_map == "last":
        return list(range(num_teacher_layers - num_student_layers + 1, num_teacher_layers + 1))
    step = num_teacher_layers // num_student_layers
    return [step * layer for layer in range(1, num_student_layers + 1)]


def layer_map_problems(layers: LayerMap, teacher: EncoderShape, student: EncoderShape) -> Problems:
    """Why a map cannot give each student layer a teacher layer."""
    wanted, most = student.num_layers, teacher.num_layers
    if wanted > most:
        yield "layer_map", f"a student of {wanted} layers cannot be mapped onto a teacher of {most}"
    elif layers == "uniform" and most % wanted:
        yield "layer_map", f"uniform needs the teacher's {most} layers to be a multiple of {wanted}; list them instead"
    if isinstance(layers, list) and len(layers) != wanted:
        yield "layer_map", f"wants {wanted} teacher layers, one for each student layer, got {len(layers)}"
    if isinstance(layers, list) and max(layers, default=0) > most:
        yield "layer_map", f"the teacher has {most} layers, got {max(layers)}"


def token_weights(mask: Tensor) -> Tensor:
    """Weight of each token [B, L] that makes a sum the mean over the real tokens of a row, then over rows."""
    return mask / (mask.sum(-1, keepdim=True).clamp(min=1) * len(mask))
