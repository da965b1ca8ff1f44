"""Objectives that match states of several layers: TinyBERT, its hidden states alone, and Patient-KD."""

from collections.abc import Mapping
from typing import Literal

from pydantic import PositiveInt
from torch import Tensor, nn

from pretrain.models.encoder import Features, Reads, real_tokens
from pretrain.models.shape import EncoderShape
from pretrain.objectives.attention_score_loss import attention_score_loss
from pretrain.objectives.layer_map import LayerMap, layer_map_problems, mapped_layers
from pretrain.objectives.objective import (
    Objective,
    ObjectiveConfig,
    ProjectedObjective,
    Reduction,
    start_projection,
    token_weights,
)
from pretrain.objectives.relations import rotating, rotation_problems
from pretrain.settings import Problems


class HiddenStatesConfig(ObjectiveConfig):
    """Hidden states of mapped layers through a projection, TinyBERT (arXiv:1909.10351) equations 8 and 9.

    Deviations: with `normalize_targets` the teacher's states are first layer-normalised (no gain, no bias), so that the
    few very large dimensions of some encoders do not dominate the loss. Projections start at the map between the two
    models' embeddings (the identity for equal widths) instead of at random: a random projection turns the student's
    space away from the space of its embeddings, and short runs then end with worse vectors than they began with.
    The mean is over all real tokens of a step, as in TextBrewer; TinyBERT's code counts padding too.
    """

    type: Literal["hidden_states"]
    layer_map: LayerMap = "uniform"  # every k-th teacher layer, the last ones, or a list for student layers 1, 2, ...
    embeddings: bool = True  # match the embeddings' output too
    projection: Literal["per_layer", "shared"] = "per_layer"
    normalize_targets: bool = True
    reduction: Reduction = "tokens"  # the mean over all real tokens of a step, or over those of a row, then rows

    def problems(self, teacher: EncoderShape, student: EncoderShape) -> Problems:
        """Yield why the layer map does not fit these models, if so."""
        yield from layer_map_problems(self.layer_map, teacher, student)

    def build(self, teacher: EncoderShape, student: EncoderShape) -> "HiddenStates":
        """Build the objective for these models."""
        return HiddenStates(self, teacher, student)


class TinyBERTConfig(HiddenStatesConfig):
    """TinyBERT's general distillation (arXiv:1909.10351): embeddings, hidden states and attention scores, equation 11.

    By default one projection for all layers, as in its first version and its Chinese models, and targets that are not
    normalised. Both models need the same number of attention heads.
    """

    type: Literal["tinybert"]  # type: ignore[assignment]
    rotated: bool = False  # in models with rotary positions, compare scores of queries and keys after rotation
    projection: Literal["per_layer", "shared"] = "shared"
    normalize_targets: bool = False

    def problems(self, teacher: EncoderShape, student: EncoderShape) -> Problems:
        """Yield why the layer map or the attention heads do not fit these models, if so."""
        yield from super().problems(teacher, student)
        heads, teacher_heads = student.num_attention_heads, teacher.num_attention_heads
        if heads != teacher_heads:
            message = f"both models need the same number of attention heads; the teacher has {teacher_heads}"
            yield "type", f"{message}, got {heads}"
        yield from rotation_problems(self.rotated, teacher, student)
        if not list(super().problems(teacher, student)):
            yield from self._window_problems(teacher, student)

    def _window_problems(self, teacher: EncoderShape, student: EncoderShape) -> Problems:
        layers = mapped_layers(self.layer_map, teacher.num_layers, student.num_layers)
        if sliding := sorted(teacher.sliding_layers & set(layers)):
            yield (
                "layer_map",
                f"scores cannot be compared in the teacher's layers {sliding}, whose tokens attend only to those "
                f"within {teacher.window}; the nearest without a window: {[teacher.full_layer(one) for one in layers]}",
            )
        if student.sliding_layers:
            yield (
                "type",
                f"scores cannot be compared in the student's layers {sorted(student.sliding_layers)}, whose tokens "
                f"attend only to those within {student.window}; set all of architecture.options.layer_types to "
                "full_attention",
            )

    def build(self, teacher: EncoderShape, student: EncoderShape) -> "TinyBERT":
        """Build the objective for these models."""
        return TinyBERT(self, teacher, student)


class HiddenStates(Objective):
    """Mean squared error between the teacher's hidden states and the student's, projected to the teacher's width."""

    def __init__(self, config: HiddenStatesConfig, teacher: EncoderShape, student: EncoderShape) -> None:
        super().__init__()
        self.weight, self.reduction = config.weight, config.reduction
        self.normalize_targets = config.normalize_targets
        pairs = list(enumerate(mapped_layers(config.layer_map, teacher.num_layers, student.num_layers), start=1))
        self.pairs = [(0, 0), *pairs] if config.embeddings else pairs
        count = 1 if config.projection == "shared" else len(self.pairs)
        self.projections = nn.ModuleList(nn.Linear(student.hidden_size, teacher.hidden_size) for _ in range(count))
        self.teacher_reads = Reads(hidden_states=frozenset(layer for _, layer in self.pairs))
        self.student_reads = Reads(hidden_states=frozenset(layer for layer, _ in self.pairs))

    def start_from(self, basis: Tensor) -> None:
        """Start every projection at `basis` [D_teacher, D_student]."""
        for projection in self.projections:
            assert isinstance(projection, nn.Linear)
            start_projection(projection, basis)

    def forward(self, teacher: Features, student: Features, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the mean squared error of every mapped layer, as `hidden/m` for the student's layer m."""
        weight, terms = token_weights(real_tokens(batch), self.reduction, batch.get("num_real")), {}
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

    Scores are compared for every two real tokens of a row, or of a document if the batch has `document_ids`; a GPU is
    then waited for once, to know how many documents the longest row has.
    """

    def __init__(self, config: TinyBERTConfig, teacher: EncoderShape, student: EncoderShape) -> None:
        super().__init__(config, teacher, student)
        self.num_heads = teacher.num_attention_heads
        teacher_layers = frozenset(layer for _, layer in self.pairs if layer)
        student_layers = frozenset(layer for layer, _ in self.pairs if layer)
        self.rotated = rotating(config.rotated, teacher, student)
        layers = zip(
            (self.teacher_reads, self.student_reads), (teacher_layers, student_layers), self.rotated, strict=True
        )
        self.teacher_reads, self.student_reads = (
            Reads(reads.hidden_states, one, rotated=one if turned else frozenset()) for reads, one, turned in layers
        )

    def forward(self, teacher: Features, student: Features, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the terms of HiddenStates, and `attention/m` for the scores of the student's layer m."""
        parts, terms = _compared_tokens(batch), super().forward(teacher, student, batch)
        for layer, teacher_layer in self.pairs:
            if layer:
                target = _compared(teacher, teacher_layer, self.rotated[0])
                output = _compared(student, layer, self.rotated[1])
                terms[f"attention/{layer}"] = attention_score_loss(
                    target, output, parts, self.num_heads, self.reduction, batch.get("num_pairs")
                )
        return terms


def _compared(features: Features, layer: int, rotated: bool) -> tuple[Tensor, Tensor]:
    return features.projection("query", layer, rotated), features.projection("key", layer, rotated)


def _compared_tokens(batch: Mapping[str, Tensor]) -> list[Tensor]:
    """Return masks [B, L] of tokens that are compared with one another: all real tokens, or those of each document."""
    if "document_ids" not in batch:
        return [real_tokens(batch)]
    documents = batch["document_ids"]  # padding is -1
    return [documents == number for number in range(int(documents.max()) + 1)]


class PatientKDConfig(ObjectiveConfig):
    """Patient knowledge distillation (arXiv:1908.09355), equation 7: normalised [CLS] states of mapped layers.

    `skip` takes every k-th teacher layer, `last` the last ones; both leave out the last layer of each model, which the
    paper trains by the task. A list names the teacher layers of student layers 1, 2, ... If the widths differ, a
    projection is trained, which the paper, with equal widths, does not need.
    """

    type: Literal["pkd"]
    layer_map: Literal["skip", "last"] | list[PositiveInt] = "skip"

    def layers(self, teacher: EncoderShape, student: EncoderShape) -> list[int]:
        """Return the teacher layers, from 1, of student layers 1, 2, ..."""
        if isinstance(self.layer_map, list):
            return self.layer_map
        full = mapped_layers("uniform" if self.layer_map == "skip" else "last", teacher.num_layers, student.num_layers)
        return full[:-1] if self.layer_map == "skip" else [layer - 1 for layer in full[1:]]

    def problems(self, teacher: EncoderShape, student: EncoderShape) -> Problems:
        """Yield why the layer map does not fit these models, if so."""
        layers, available, wanted = self.layer_map, teacher.num_layers, student.num_layers
        if isinstance(layers, list):
            if not 0 < len(layers) <= wanted:
                yield "layer_map", f"must list 1 to {wanted} teacher layers, got {len(layers)}"
            if max(layers, default=0) > available:
                yield "layer_map", f"the teacher has {available} layers, got {max(layers)}"
        elif wanted < 2:
            message = f"{layers} leaves out the last layer, and the student has only one; list teacher layers instead"
            yield "layer_map", message
        elif wanted > available:
            yield "layer_map", f"a student with {wanted} layers cannot be mapped to a teacher with {available}"
        elif layers == "skip" and available % wanted:
            message = f"skip needs the teacher's {available} layers to be a multiple of {wanted}; list layers instead"
            yield "layer_map", message

    def build(self, teacher: EncoderShape, student: EncoderShape) -> "PatientKD":
        """Build the objective for these models."""
        return PatientKD(self, teacher, student)


class PatientKD(ProjectedObjective):
    """Squared distance between L2-normalised states of the first token, mean over rows, one term per layer."""

    def __init__(self, config: PatientKDConfig, teacher: EncoderShape, student: EncoderShape) -> None:
        super().__init__(teacher, student)
        self.weight = config.weight
        self.pairs = list(enumerate(config.layers(teacher, student), start=1))
        self.teacher_reads = Reads(hidden_states=frozenset(layer for _, layer in self.pairs))
        self.student_reads = Reads(hidden_states=frozenset(layer for layer, _ in self.pairs))

    def forward(self, teacher: Features, student: Features, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the term `patient/m` for every mapped student layer m."""
        terms = {}
        for layer, teacher_layer in self.pairs:
            output = self.projection(student.hidden_states[layer][:, 0]).float()
            target = teacher.hidden_states[teacher_layer][:, 0].float()
            output, target = nn.functional.normalize(output, dim=-1), nn.functional.normalize(target, dim=-1)
            terms[f"patient/{layer}"] = (output - target).square().sum(-1).mean()
        return terms
