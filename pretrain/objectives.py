"""Distillation objectives: each says what it reads of teacher and student, and turns that into loss terms.

Shapes: B rows, L tokens, D hidden width, R relation heads. Every term is a float32 scalar; padding is excluded exactly:
the mean is over the real tokens of a row, then over rows.
"""

import math
from collections.abc import Iterator
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn

from pretrain.encoder import EncoderShape, Features, Reads
from pretrain.relations import relation_loss

Weight = Annotated[float, Field(gt=0)]
LayerMap = Literal["uniform", "last"] | list[PositiveInt]
Problems = Iterator[tuple[str, str]]


class Objective(nn.Module):
    """One loss family between one teacher and one student; its projections, if any, train with the student."""

    weight: float
    teacher_reads: Reads
    student_reads: Reads

    def forward(self, teacher: Features, student: Features, mask: Tensor) -> dict[str, Tensor]:
        """Unweighted loss terms by metric name, float32 scalars; mask is bool [B, L]."""
        raise NotImplementedError

    def start_from(self, basis: Tensor) -> None:
        """Start where the student does: `basis` [D_teacher, D_student] made its embeddings of the teacher's."""

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """The weighted sum that is trained on."""
        return self.weight * torch.stack(list(terms.values())).sum()


class MiniLMv2Config(BaseModel):
    """MiniLMv2 (arXiv:2012.15828): relations QQ, KK and VV of one teacher layer into the student's last layer."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    type: Literal["minilm_v2"]
    num_relation_heads: PositiveInt
    teacher_layer: PositiveInt | None = None  # None: the paper's choice for a teacher of this size
    weight: Weight = 1.0

    def problems(self, teacher: EncoderShape, student: EncoderShape) -> Problems:
        """(key, message) of everything that cannot work for this pair of models."""
        heads, both = self.num_relation_heads, math.gcd(teacher.hidden_size, student.hidden_size)
        if both % heads:
            legal = ", ".join(str(n) for n in range(both, 0, -1) if both % n == 0)
            yield (
                "num_relation_heads",
                f"must divide the widths of teacher ({teacher.hidden_size}) and student ({student.hidden_size}), "
                f"got {heads}; legal values: {legal}",
            )
        if self.teacher_layer and self.teacher_layer > teacher.num_layers:
            yield "teacher_layer", f"the teacher has {teacher.num_layers} layers, got {self.teacher_layer}"

    def build(self, teacher: EncoderShape, student: EncoderShape) -> "MiniLMv2":
        """The objective for this pair of models."""
        return MiniLMv2(self, teacher, student)


class MiniLMv2(Objective):
    """MiniLMv2 equations 5 to 8 with the pairs weighted 1 each."""

    def __init__(self, config: MiniLMv2Config, teacher: EncoderShape, student: EncoderShape) -> None:
        super().__init__()
        self.weight = config.weight
        self.num_relation_heads = config.num_relation_heads
        self.teacher_layer = config.teacher_layer or published_teacher_layer(teacher)
        self.student_layer = student.num_layers
        self.teacher_reads = Reads(projections=frozenset({self.teacher_layer}))
        self.student_reads = Reads(projections=frozenset({self.student_layer}))

    def forward(self, teacher: Features, student: Features, mask: Tensor) -> dict[str, Tensor]:
        """KL of the query-query, key-key and value-value relations."""
        terms = {}
        for name in ("query", "key", "value"):
            of_teacher = getattr(teacher, name)[self.teacher_layer]
            of_student = getattr(student, name)[self.student_layer]
            terms[f"relation/{name}"] = relation_loss(
                (of_teacher, of_teacher), (of_student, of_student), mask, self.num_relation_heads
            )
        return terms


def published_teacher_layer(teacher: EncoderShape) -> int:
    """MiniLMv2, section 4.3: the last layer of a base model, 21 of 24 of BERT-large, 19 of 24 of RoBERTa and XLM-R."""
    if teacher.num_layers != 24:
        return teacher.num_layers
    return 19 if teacher.model_type in ("roberta", "xlm-roberta") else 21


class HiddenStatesConfig(BaseModel):
    """Hidden states of mapped layers through a projection, TinyBERT equations 8 and 9 (arXiv:1909.10351).

    Deviations: with `normalize_targets` the teacher's states are layer-normalised first (no gain, no bias), so that the
    few very large dimensions of some encoders do not own the loss. And the projections do not start random but at the
    map between the two models' embeddings, the identity for equal widths: a random one turns the student's space away
    from the one that its embeddings live in, and short runs then end with worse vectors than they began with.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    type: Literal["hidden_states"]
    layer_map: LayerMap = "uniform"
    embeddings: bool = True
    projection: Literal["per_layer", "shared"] = "per_layer"
    normalize_targets: bool = True
    weight: Weight = 1.0

    def problems(self, teacher: EncoderShape, student: EncoderShape) -> Problems:
        """(key, message) of everything that cannot work for this pair of models."""
        layers, wanted, most = self.layer_map, student.num_layers, teacher.num_layers
        if wanted > most:
            yield "layer_map", f"a student of {wanted} layers cannot be mapped onto a teacher of {most}"
        elif layers == "uniform" and most % wanted:
            yield (
                "layer_map",
                f"uniform needs the teacher's {most} layers to be a multiple of {wanted}; list them instead",
            )
        if isinstance(layers, list) and len(layers) != wanted:
            yield "layer_map", f"wants {wanted} teacher layers, one for each student layer, got {len(layers)}"
        if isinstance(layers, list) and max(layers) > most:
            yield "layer_map", f"the teacher has {most} layers, got {max(layers)}"

    def build(self, teacher: EncoderShape, student: EncoderShape) -> "HiddenStates":
        """The objective for this pair of models."""
        return HiddenStates(self, teacher, student)


class HiddenStates(Objective):
    """Mean squared error between the teacher's hidden states and the student's, projected to the teacher's width."""

    def __init__(self, config: HiddenStatesConfig, teacher: EncoderShape, student: EncoderShape) -> None:
        super().__init__()
        self.weight = config.weight
        self.normalize_targets = config.normalize_targets
        pairs = list(enumerate(mapped_layers(config.layer_map, teacher.num_layers, student.num_layers), start=1))
        self.pairs = [(0, 0), *pairs] if config.embeddings else pairs
        count = 1 if config.projection == "shared" else len(self.pairs)
        self.projections = nn.ModuleList(nn.Linear(student.hidden_size, teacher.hidden_size) for _ in range(count))
        self.teacher_reads = Reads(hidden_states=frozenset(layer for _, layer in self.pairs))
        self.student_reads = Reads(hidden_states=frozenset(layer for layer, _ in self.pairs))

    @torch.no_grad()
    def start_from(self, basis: Tensor) -> None:
        """Every projection starts as the map back from the student's space."""
        for projection in self.projections:
            assert isinstance(projection, nn.Linear)
            projection.weight.copy_(basis)
            projection.bias.zero_()

    def forward(self, teacher: Features, student: Features, mask: Tensor) -> dict[str, Tensor]:
        """Mean squared error of every mapped layer, named by the student's layer."""
        weight = mask / (mask.sum(-1, keepdim=True).clamp(min=1) * len(mask))
        terms = {}
        for index, (student_layer, teacher_layer) in enumerate(self.pairs):
            projection = self.projections[index % len(self.projections)]
            output = projection(student.hidden_states[student_layer]).float()
            target = teacher.hidden_states[teacher_layer].float()
            if self.normalize_targets:
                target = nn.functional.layer_norm(target, target.shape[-1:])
            error = (output - target).square().mean(-1)
            terms[f"hidden/{student_layer}"] = (error * weight).sum()
        return terms


def mapped_layers(layer_map: LayerMap, num_teacher_layers: int, num_student_layers: int) -> list[int]:
    """TinyBERT's g(m) for m = 1 to the student's layers: every k-th teacher layer, the last ones or the listed ones."""
    if isinstance(layer_map, list):
        return list(layer_map)
    if layer_map == "last":
        return list(range(num_teacher_layers - num_student_layers + 1, num_teacher_layers + 1))
    step = num_teacher_layers // num_student_layers
    return [step * layer for layer in range(1, num_student_layers + 1)]


ObjectiveConfig = Annotated[MiniLMv2Config | HiddenStatesConfig, Field(discriminator="type")]
