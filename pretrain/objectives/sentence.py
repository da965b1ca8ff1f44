"""The objective on vectors of whole texts: the student's text vector comes to point where the teacher's does.

Shapes: B rows of one text each, L tokens, D hidden width of each model, W ranks.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
import torch.distributed as dist
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from pretrain.models.encoder import Features, Reads, real_tokens
from pretrain.models.pooling import Pooling, pool
from pretrain.models.shape import EncoderShape
from pretrain.objectives.objective import ObjectiveConfig, ProjectedObjective
from pretrain.settings import Problems


class SentenceConfig(ObjectiveConfig):
    """Vectors of whole texts, as in LEAF (arXiv:2509.12539): 1 - cosine between the teacher's and the student's.

    If the widths differ, a linear map is trained and published with the student, whose vectors then stand in the space
    of the teacher's: documents may be encoded by one and queries by the other. `similarities` adds the squared error of
    the cosines between all texts of a micro-batch of all ranks, as in Jasper and Stella (arXiv:2412.19048).
    """

    reads_text_vectors = True

    type: Literal["sentence"]
    pooling: Pooling  # of both models, as the teacher's vectors are made
    similarities: Annotated[float, Field(ge=0)] = 0.0  # weight of the error of cosines between texts
    dims: list[PositiveInt] = Field(default_factory=list)  # numbers of first dimensions to match too (Matryoshka)

    @model_validator(mode="before")
    @classmethod
    def _pooling_is_named(cls, values: Any) -> Any:
        if isinstance(values, dict) and "pooling" not in values:
            raise ValueError(
                "pooling: must say how the teacher's vectors are made, as its 1_Pooling/config.json does: mean (E5, "
                "GTE), first (BGE) or last (Qwen3-Embedding)"
            )
        return values

    def problems(self, teacher: EncoderShape, student: EncoderShape) -> Problems:
        """Yield why the dimensions do not fit the teacher, if so."""
        if wrong := [one for one in self.dims if one >= teacher.hidden_size]:
            yield "dims", f"must be less than the teacher's width {teacher.hidden_size}, got {wrong[0]}"

    def build(self, teacher: EncoderShape, student: EncoderShape) -> "Sentence":
        """Build the objective for these models."""
        return Sentence(self, teacher, student)


class Sentence(ProjectedObjective):
    """The terms `sentence/cosine` and, if wanted, `sentence/similarities`, means over rows."""

    def __init__(self, config: SentenceConfig, teacher: EncoderShape, student: EncoderShape) -> None:
        super().__init__(teacher, student)
        self.weight, self.pooling = config.weight, config.pooling
        self.shares = {"sentence/similarities": config.similarities}
        self.wants_similarities = config.similarities > 0
        self.dims = [teacher.hidden_size, *config.dims]
        self.teacher_layer, self.student_layer = teacher.num_layers, student.num_layers
        self.teacher_reads = Reads(hidden_states=frozenset({self.teacher_layer}))
        self.student_reads = Reads(hidden_states=frozenset({self.student_layer}))

    def forward(self, teacher: Features, student: Features, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the terms for rows of one text each."""
        real = real_tokens(batch)
        target = teacher.text_vectors
        if target is None:
            target = teacher.mapped(pool(teacher.hidden_states[self.teacher_layer].float(), real, self.pooling))
        output = self.projection(pool(student.hidden_states[self.student_layer], real, self.pooling)).float()
        cosines = [nn.functional.cosine_similarity(output[:, :dim], target[:, :dim], dim=-1) for dim in self.dims]
        terms = {"sentence/cosine": 1 - torch.stack(cosines).mean()}
        if self.wants_similarities:
            terms["sentence/similarities"] = similarity_error(target, output)
        return terms


def similarity_error(target: Tensor, output: Tensor) -> Tensor:
    """Return the mean squared error of the cosines between this rank's texts and those of all ranks.

    Args:
        target, output: vectors [B, D] of the teacher and the student; B is the same on all ranks.

    Vectors of other ranks get their gradient on their own rank. The error is symmetric in its two texts, so twice the
    gradient of a text's row is that of its row and column: the mean over ranks has the gradient of the whole matrix.
    """
    target, output = nn.functional.normalize(target, dim=-1), nn.functional.normalize(output, dim=-1)
    wanted, found = target @ _of_all_ranks(target).T, output @ _of_all_ranks(output.detach()).T
    error = (found - wanted).square().mean()
    return 2 * error - error.detach()


def _of_all_ranks(vectors: Tensor) -> Tensor:
    """Return the vectors of all ranks [W * B, D], without gradients."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return vectors
    gathered = [torch.empty_like(vectors) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, vectors.contiguous())
    return torch.cat(gathered)
