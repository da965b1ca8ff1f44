"""Several fine-tuned teachers of one student, whose predictions are averaged by `soft_labels`."""

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from pretrain.models.encoder import Features
from pretrain.models.teacher import Teacher
from pretrain.settings import Settings


class WeightedTeacher(Settings):
    """One of several teachers, which are fine-tuned on the task already and compute in the student's precision."""

    path: Annotated[str, Field(min_length=1)]  # a folder or a hub id, such as runs/tnews/ft/model
    weight: Annotated[float, Field(gt=0)] = 1.0  # of its probabilities in the average; divided by the sum of weights


class SeveralTeachers(nn.Module):
    """Frozen task models that each run once a batch. Their logits are kept apart: probabilities are averaged later.

    Args:
        weights: one for each teacher, positive.
    """

    def __init__(self, teachers: Sequence[Teacher], weights: Sequence[float]) -> None:
        super().__init__()
        self.teachers = nn.ModuleList(teachers)
        self.shares = [weight / sum(weights) for weight in weights]

    def forward(self, batch: Mapping[str, Tensor]) -> Features:
        """Return the predictions of all teachers for a batch of `input_ids` [B, L] and so on."""
        logits = [teacher(batch).logits for teacher in self.teachers]
        return Features(weighted_logits=list(zip(self.shares, logits, strict=True)))
