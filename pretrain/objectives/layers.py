"""Objectives that match states of several layers: TinyBERT's, its hidden states alone, and Patient-KD's."""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from pretrain.models.encoder import EncoderShape, Features, Reads, real_tokens
from pretrain.objectives.attention_score_loss import attention_score_loss
from pretrain.objectives.layer_map import LayerMap, layer_map_problems, mapped_layers
from pretrain.objectives.objective import Objective, ObjectiveConfig, token_weights
from pretrain.settings import Problems


class HiddenStatesConfig(ObjectiveConfig):
    """Hidden states of mapped layers through a projection, TinyBERT equations 8 and 9 (arXiv:1909.10351).

    Deviations: with `normalize_targets` the teacher's states are layer-normalised first (no gain, no bias), so that the
    few very large dimensions of some encoders do not own the loss. And the projections do not start random but at the
    map between the two models' embeddings, the identity for equal widths: a random one turns the student's space away
    from the one that its embeddings live in, and short runs then end with worse vectors than they began with.
    """

    type: Literal["hidden_states"]
    layer_map: LayerMap = "uniform"
    embeddings: bool = True
    projection: Literal["per_layer", "shared"] = "per_layer"
    normalize_targets: bool = True

    def problems(self, teacher: EncoderShape, student: EncoderShape) -> Problems:
        yield from layer_map_problems(self.layer_map, teacher, student)

    def build(self, teacher: EncoderShape, student: EncoderShape) -> "HiddenStates":
        return HiddenStates(self, teacher, student)


class TinyBERTConfig(HiddenStatesConfig):
    """TinyBERT's general distillation (arXiv:1909.10351): embeddings, hidden states and attention scores, equation 11.

    One projection for all layers, as in its first version and its Chinese models, targets as they are. Scores need as
    many attention heads in both models.
    """

    compares_all_tokens = True

    type: Literal["tinybert"]  # type: ignore[assignment]
    projection: Literal["per_layer", "shared"] = "shared"
    normalize_targets: bool = False

    def problems(self, teacher: EncoderShape, student: EncoderShape) -> Problems:
        yield from super().problems(teacher, student)
        heads, others = student.num_attention_heads, teacher.num_attention_heads
        if heads != others:
            yield "type", f"attention scores need as many heads in both models; the teacher has {others}, got {heads}"

    def build(self, teacher: EncoderShape, student: EncoderShape) -> "TinyBERT":
        return TinyBERT(self, teacher, student)


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

    def start_from(self, basis: Tensor) -> None:
        """Every projection starts as the map back from the student's space."""
        for projection in self.projections:
            start_projection(projection, basis)

    def forward(self, teacher: Features, student: Features, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Mean squared error of every mapped layer, `hidden/m` for the student's layer m."""
        weight, terms = token_weights(real_tokens(batch)), {}
        for index, (student_layer, teacher_layer) in enumerate(self.pairs):
            projection = self.projections[index % len(self.projections)]
            output = projection(student.hidden_states[student_layer]).float()
            target = teacher.hidden_states[teacher_layer].float()
            if self.normalize_targets:
                target = nn.functional.layer_norm(target, target.shape[-1:])
            error = (output - target).square().mean(-1)
            terms[f"hidden/{student_layer}"] = (error * weight).sum()
        return terms


class TinyBERT(HiddenStates):
    """Hidden states, and the attention scores of the same layers.

    Scores are of every two real tokens of a row, those of different documents too, whatever the models attend to.
    """

    def __init__(self, config: TinyBERTConfig, teacher: EncoderShape, student: EncoderShape) -> None:
        super().__init__(config, teacher, student)
        self.num_heads = teacher.num_attention_heads
        of_teacher = frozenset(layer for _, layer in self.pairs if layer)
        of_student = frozenset(layer for layer, _ in self.pairs if layer)
        self.teacher_reads = Reads(self.teacher_reads.hidden_states, of_teacher)
        self.student_reads = Reads(self.student_reads.hidden_states, of_student)

    def forward(self, teacher: Features, student: Features, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As HiddenStates, and `attention/m` for the scores of the student's layer m."""
        mask, terms = real_tokens(batch), super().forward(teacher, student, batch)
        for layer, above in self.pairs:
            if layer:
                of_teacher, of_student = (
                    (teacher.query[above], teacher.key[above]),
                    (student.query[layer], student.key[layer]),
                )
                terms[f"attention/{layer}"] = attention_score_loss(of_teacher, of_student, mask, self.num_heads)
        return terms


class PatientKDConfig(ObjectiveConfig):
    """Patient knowledge distillation (arXiv:1908.09355), equation 7: normalised [CLS] states of mapped layers.

    `skip` is every k-th teacher layer, `last` the last ones; both leave out the last layer of either model, which the
    paper teaches through the task. A list names the teacher layers of student layers 1, 2, ... Where the widths differ
    a projection is trained, which the paper, with equal widths, has no need of.
    """

    type: Literal["pkd"]
    layer_map: Literal["skip", "last"] | list[PositiveInt] = "skip"

    def layers(self, teacher: EncoderShape, student: EncoderShape) -> list[int]:
        """The teacher layer of student layer 1, 2, ..."""
        if isinstance(self.layer_map, list):
            return self.layer_map
        full = mapped_layers("uniform" if self.layer_map == "skip" else "last", teacher.num_layers, student.num_layers)
        return full[:-1] if self.layer_map == "skip" else [layer - 1 for layer in full[1:]]

    def problems(self, teacher: EncoderShape, student: EncoderShape) -> Problems:
        layers, most = self.layer_map, teacher.num_layers
        if isinstance(layers, list):
            if not 0 < len(layers) <= student.num_layers:
                yield "layer_map", f"wants 1 to {student.num_layers} teacher layers, got {len(layers)}"
            if max(layers, default=0) > most:
                yield "layer_map", f"the teacher has {most} layers, got {max(layers)}"
        elif student.num_layers < 2:
            yield "layer_map", f"{layers} leaves out the last layer, and the student has no other; list teacher layers"
        elif student.num_layers > most:
            yield "layer_map", f"a student of {student.num_layers} layers cannot be mapped onto a teacher of {most}"
        elif layers == "skip" and most % student.num_layers:
            yield (
                "layer_map",
                f"skip needs the teacher's {most} layers to be a multiple of {student.num_layers}; list them instead",
            )

    def build(self, teacher: EncoderShape, student: EncoderShape) -> "PatientKD":
        return PatientKD(self, teacher, student)


class PatientKD(Objective):
    """Squared distance of L2-normalised first-token states, mean over rows, one term a layer."""

    def __init__(self, config: PatientKDConfig, teacher: EncoderShape, student: EncoderShape) -> None:
        super().__init__()
        self.weight = config.weight
        self.pairs = list(enumerate(config.layers(teacher, student), start=1))
        equal = teacher.hidden_size == student.hidden_size
        self.projection = nn.Identity() if equal else nn.Linear(student.hidden_size, teacher.hidden_size, bias=False)
        self.teacher_reads = Reads(hidden_states=frozenset(layer for _, layer in self.pairs))
        self.student_reads = Reads(hidden_states=frozenset(layer for layer, _ in self.pairs))

    def start_from(self, basis: Tensor) -> None:
        """The projection starts as the map back from the student's space."""
        if isinstance(self.projection, nn.Linear):
            start_projection(self.projection, basis)

    def forward(self, teacher: Features, student: Features, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`patient/m` for the student's layer m."""
        terms = {}
        for layer, above in self.pairs:
            output = self.projection(student.hidden_states[layer][:, 0]).float()
            target = teacher.hidden_states[above][:, 0].float()
            output, target = nn.functional.normalize(output, dim=-1), nn.functional.normalize(target, dim=-1)
            terms[f"patient/{layer}"] = (output - target).square().sum(-1).mean()
        return terms


@torch.no_grad()
def start_projection(projection: nn.Module, basis: Tensor) -> None:
    """A projection to the teacher's width starts at the map between the embeddings, `basis` [D_teacher, D_student]."""
    assert isinstance(projection, nn.Linear)
    projection.weight.copy_(basis)
    if projection.bias is not None:
        projection.bias.zero_()
