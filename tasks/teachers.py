"""Teachers of a stage: several of one student, and predictions that teachers made once on every training row.

A teacher does not change, and neither do the rows: asked in every epoch, it answers the same, mostly at several times
the cost of the student's own passes.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from pretrain.models.encoder import Features, HuggingFaceModel, Reads, union
from pretrain.models.teacher import Teacher, TeacherFunction
from pretrain.objectives.objective import Objective
from pretrain.settings import Settings
from tasks.rows import Row

_KEY = "teacher_logits"  # of a batch, followed by the number of the teacher
MOST_NUMBERS = 2**28  # that every rank keeps of each teacher: 1 GiB


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


class Answers:
    """Stands in for the teachers: adds their predictions to batches, and returns them as the features of a batch.

    Args:
        logits: of each teacher, those of every row on the CPU, as `evaluation.predict` returns them.
        shares: of each teacher, where there are several; they add up to 1.
    """

    def __init__(self, logits: Sequence[Sequence[Tensor]], shares: Sequence[float] = ()) -> None:
        self._logits, self._shares = logits, shares

    def of(self, numbers: Sequence[int], rows: Sequence[Row]) -> dict[str, Tensor]:
        """Return what to add to the batch of these rows, whose numbers are given: [B, C], [B, L, C] or [N, 1]."""
        return {
            f"{_KEY}_{index}": _together([logits[number] for number in numbers], rows)
            for index, logits in enumerate(self._logits)
        }

    def __call__(self, batch: Mapping[str, Tensor]) -> Features:
        """Return the predictions that were added to a batch."""
        if not self._shares:
            return Features(logits=batch[f"{_KEY}_0"])
        features = (Features(logits=batch[f"{_KEY}_{index}"]) for index in range(len(self._shares)))
        return Features(several=list(zip(self._shares, features, strict=True)))


def _together(logits: Sequence[Tensor], rows: Sequence[Row]) -> Tensor:
    """Return the logits of several rows as a task model's head does, zeros at padding."""
    if rows[0].choices:
        return torch.cat(list(logits)).unsqueeze(1)
    return torch.nn.utils.rnn.pad_sequence(list(logits), batch_first=True)


def askable(teacher: TeacherFunction, rows: Sequence[Row]) -> tuple[list[Teacher], Sequence[float]]:
    """Return the teachers whose predictions are all that is read of them, and their shares.

    None are returned if more is read, or if the predictions on these rows are too many to be kept.
    """
    teachers: list[object] = [teacher]
    shares: Sequence[float] = ()
    if isinstance(teacher, SeveralTeachers):
        teachers, shares = list(teacher.teachers), teacher.shares
    found = [one for one in teachers if isinstance(one, Teacher) and one.encoder.reads == Reads(logits=True)]
    kept = all(_num_places(rows) * one.encoder.model.config.num_labels <= MOST_NUMBERS for one in found)
    return (found, shares) if kept and len(found) == len(teachers) else ([], ())


def _num_places(rows: Sequence[Row]) -> int:
    """Return for how many texts, tokens or choices there is a prediction."""
    first = rows[0].labels
    if "start_positions" in first or isinstance(first["labels"], list):
        return sum(len(row.input_ids) for row in rows)
    return sum(len(row.choices) or 1 for row in rows)
