"""Several teachers of one student: an average of their predictions, or of the losses against each."""

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from pretrain.models.encoder import Features, HuggingFaceModel, union
from pretrain.models.teacher import Teacher
from pretrain.objectives.objective import Objective
from pretrain.settings import Settings


class WeightedTeacher(Settings):
    """One of several teachers, which are fine-tuned on the task already and compute in the student's precision."""

    path: Annotated[str, Field(min_length=1)]  # a folder or a hub id, such as runs/tnews/ft/model
    weight: Annotated[float, Field(gt=0)] = 1.0  # in the average over teachers; divided by the sum of weights


def shares_of(teachers: Sequence[WeightedTeacher]) -> list[float]:
    """Return the share of each teacher; they add up to 1."""
    return [one.weight / sum(other.weight for other in teachers) for one in teachers]


class SeveralTeachers(nn.Module):
    """Frozen models that each run once a batch. What they return is kept apart: losses average it.

    Args:
        shares: one for each teacher; they add up to 1.
    """

    def __init__(self, teachers: Sequence[Teacher], shares: Sequence[float]) -> None:
        super().__init__()
        self.teachers, self.shares = nn.ModuleList(teachers), shares

    def forward(self, batch: Mapping[str, Tensor]) -> Features:
        """Return the features of all teachers for a batch of `input_ids` [B, L] and so on."""
        return Features(several=[(share, one(batch)) for share, one in zip(self.shares, self.teachers, strict=True)])


class EachTeacher(Objective):
    """A loss against layers of each of several teachers, with projections of its own; its terms are their averages.

    Args:
        objectives: the same objective, built for each teacher.
    """

    def __init__(self, objectives: Sequence[Objective]) -> None:
        super().__init__()
        first = objectives[0]
        self.each = nn.ModuleList(objectives)
        self.weight, self.reduction, self.reads_labels = first.weight, first.reduction, first.reads_labels
        self.shares = {name: share for one in objectives for name, share in one.shares.items()}
        self.teacher_reads = union(one.teacher_reads for one in objectives)
        self.student_reads = union(one.student_reads for one in objectives)

    def attach(self, model: HuggingFaceModel) -> None:
        """Let each take what it needs of the student."""
        for one in self.each:
            assert isinstance(one, Objective)
            one.attach(model)

    def forward(self, teacher: Features, student: Features, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return each term's average; a term of some teachers alone, such as that of a layer, counts by their share."""
        terms: dict[str, Tensor] = {}
        for (share, features), objective in zip(teacher.several, self.each, strict=True):
            for name, value in objective(features, student, batch).items():
                terms[name] = terms.get(name, 0) + share * value
        return terms
