"""The predictions of frozen teachers on every training row, made once where a stage reads nothing else of them.

A teacher does not change, and neither do the rows: asked in every epoch, it answers the same, mostly at several times
the cost of the student's own passes.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pretrain.models.encoder import Features, Reads
from pretrain.models.teacher import Teacher, TeacherFunction
from tasks.rows import Row
from tasks.teachers import SeveralTeachers

_KEY = "teacher_logits"  # of a batch, followed by the number of the teacher
MOST_NUMBERS = 2**28  # that every rank keeps of each teacher: 1 GiB


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
