"""Objectives that need a vocabulary head: masked language modelling, and DistilBERT's triple loss."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from pretrain.models.encoder import Features, Reads, real_tokens
from pretrain.models.shape import EncoderShape
from pretrain.models.vocabulary_head import VocabularyHead
from pretrain.objectives.objective import Objective, ObjectiveConfig, ProjectedObjective, Reduction, token_weights
from pretrain.objectives.vocabulary_losses import distillation_loss, masked_language_loss

IGNORED = -100  # the label of tokens that are not predicted


class MaskedLMConfig(ObjectiveConfig):
    """Masked language modelling (arXiv:1810.04805): the student learns from text, without the teacher.

    The mean is over all masked tokens of a step, as in transformers.
    """

    needs_teacher = False
    needs_student_head = True

    type: Literal["mlm"]
    reduction: Reduction = "tokens"  # the mean over all masked tokens of a step, or over those of a row, then rows

    @property
    def needs_masking(self) -> bool:
        """True: it predicts masked tokens."""
        return True

    def build(self, teacher: EncoderShape, student: EncoderShape) -> "MaskedLM":
        """Build the objective for this student."""
        return MaskedLM(self, student)


class DistilBERTConfig(ObjectiveConfig):
    """DistilBERT (arXiv:1910.01108): soft targets at a temperature, masked language modelling, cosine of last states.

    The default weights are those of the authors' published command (5, 2 and 1; the paper gives none). As in their
    code, soft targets are of all real tokens unless `positions` is "masked". A weight of 0 leaves out a term. If the
    widths differ, a projection is trained for the cosine, which the paper, with equal widths, does not need. Means are
    over all tokens of a step, as in the authors' code.
    """

    needs_student_head = True

    type: Literal["distilbert"]
    temperature: Annotated[float, Field(gt=0)] = 2.0
    positions: Literal["real", "masked"] = "real"
    soft_weight: Annotated[float, Field(gt=0)] = 5.0
    mlm_weight: Annotated[float, Field(ge=0)] = 2.0
    cosine_weight: Annotated[float, Field(ge=0)] = 1.0
    reduction: Reduction = "tokens"  # the mean over all tokens of a step that count, or over a row's, then rows

    @property
    def needs_masking(self) -> bool:
        """True unless the only loss on predictions is that of the soft targets of all tokens."""
        return self.mlm_weight > 0 or self.positions == "masked"

    @property
    def needs_teacher_head(self) -> bool:
        """True: soft targets are the teacher's predictions."""
        return True

    def build(self, teacher: EncoderShape, student: EncoderShape) -> "DistilBERT":
        """Build the objective for these models."""
        return DistilBERT(self, teacher, student)


class MaskedLM(Objective):
    """Cross-entropy of the masked tokens."""

    def __init__(self, config: MaskedLMConfig, student: EncoderShape) -> None:
        super().__init__()
        self.weight, self.reduction = config.weight, config.reduction
        self.teacher_reads, self.layer = Reads(), student.num_layers
        self.student_reads = Reads(hidden_states=frozenset({self.layer}))

    def forward(self, teacher: Features, student: Features, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the term `mlm`."""
        return {"mlm": _masked_language_loss(student, self.layer, batch, self.reduction)}


class DistilBERT(ProjectedObjective):
    """DistilBERT's three terms, each a mean over the tokens that it counts."""

    def __init__(self, config: DistilBERTConfig, teacher: EncoderShape, student: EncoderShape) -> None:
        super().__init__(teacher, student, is_needed=config.cosine_weight > 0)
        self.weight, self.temperature, self.positions = config.weight, config.temperature, config.positions
        self.reduction = config.reduction
        self.shares = {
            "distilbert/soft": config.soft_weight,
            "distilbert/mlm": config.mlm_weight,
            "distilbert/cosine": config.cosine_weight,
        }
        self.teacher_layer, self.student_layer = teacher.num_layers, student.num_layers
        self.teacher_reads = Reads(hidden_states=frozenset({self.teacher_layer}))
        self.student_reads = Reads(hidden_states=frozenset({self.student_layer}))

    def forward(self, teacher: Features, student: Features, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the terms `distilbert/soft`, `distilbert/mlm` and `distilbert/cosine`, without those of weight 0."""
        name = "real_places" if self.positions == "real" else "labelled_places"
        target = _decoder_inputs(teacher, self.teacher_layer, places := places_of(batch, name))
        output = _decoder_inputs(student, self.student_layer, places)
        soft = distillation_loss(target, output, place_weights(batch, name, self.reduction), self.temperature)
        terms = {"distilbert/soft": soft}
        if self.shares["distilbert/mlm"]:
            terms["distilbert/mlm"] = _masked_language_loss(student, self.student_layer, batch, self.reduction)
        if self.shares["distilbert/cosine"]:
            states = self.projection(student.hidden_states[self.student_layer]).float()
            target_states = teacher.hidden_states[self.teacher_layer].detach().float()
            distance = 1 - nn.functional.cosine_similarity(states, target_states, dim=-1)
            weights = token_weights(real_tokens(batch), self.reduction, batch.get("num_real"))
            terms["distilbert/cosine"] = (distance * weights).sum()
        return terms


def with_places(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a batch with the positions of its real and its labelled tokens.

    For a batch on the CPU: finding them on a device would wait for it.
    """
    places = {"real_places": places_of(batch, "real_places")}
    if "labels" in batch:
        places["labelled_places"] = places_of(batch, "labelled_places")
    return {**batch, **places}


def places_of(batch: Mapping[str, Tensor], name: str) -> Tensor:
    """Return the positions [N] of "real_places" or "labelled_places" among the B x L tokens.

    They are in the batch, or computed from its masks.
    """
    if name in batch:
        return batch[name]
    return _mask(batch, name).flatten().nonzero().squeeze(1)


def _mask(batch: Mapping[str, Tensor], name: str) -> Tensor:
    return real_tokens(batch) if name == "real_places" else batch["labels"] != IGNORED


def place_weights(batch: Mapping[str, Tensor], name: str, reduction: Reduction) -> Tensor:
    """Return the weights [N] by which a sum over such positions is the mean of this reduction."""
    count = batch.get("num_real" if name == "real_places" else "num_labelled")
    return token_weights(_mask(batch, name), reduction, count).flatten().index_select(0, places_of(batch, name))


def _masked_language_loss(student: Features, layer: int, batch: Mapping[str, Tensor], reduction: Reduction) -> Tensor:
    places = places_of(batch, "labelled_places")
    labels = batch["labels"].flatten().index_select(0, places)
    weights = place_weights(batch, "labelled_places", reduction)
    return masked_language_loss(*_decoder_inputs(student, layer, places), labels, weights)


def _decoder_inputs(features: Features, layer: int, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the decoder's input states [N, E] at N of the B x L tokens, its weight [V, E] and its bias [V]."""
    head = features.head
    assert isinstance(head, VocabularyHead)
    return head.transform(features.hidden_states[layer].flatten(0, 1).index_select(0, places)), *head.decoder
