"""ALBERT's sentence order: the student tells whether the two texts of a row are swapped.

Shapes: B rows, L tokens, D hidden width.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from torch import Tensor, nn

from pretrain.models.encoder import Features, HuggingFaceModel, Reads
from pretrain.models.shape import EncoderShape
from pretrain.objectives.objective import Objective, ObjectiveConfig, Reduction

IGNORED = -100  # the label of rows of one text


class SentenceOrderConfig(ObjectiveConfig):
    """Sentence order of ALBERT (arXiv:1909.11942): cross-entropy of two classes on the first token's state.

    The head is BERT's: a dense layer with tanh, the pooler, and a linear one. An ALBERT student with `mlm` beside it is
    published with both heads, for AlbertForPreTraining; others are published without this one. The mean is over all
    pairs of a step.
    """

    needs_teacher = False
    reads_order = True
    head_family = "albert"

    type: Literal["sentence_order"]

    def build(self, teacher: EncoderShape, student: EncoderShape) -> "SentenceOrder":
        """Build the objective for this student."""
        return SentenceOrder(self, student)


class SentenceOrder(Objective):
    """The loss `sentence_order`, and two shares of all rows that are only logged.

    `sentence_order/asked` are pairs, `sentence_order/right` those that are told right. Of rows sorted by length, some
    steps have no pair: the loss they log is 0.
    """

    reduction: Reduction = "tokens"  # a mean over a step, here of pairs: batches have their number
    shares = MappingProxyType({"sentence_order/asked": 0.0, "sentence_order/right": 0.0})

    def __init__(self, config: SentenceOrderConfig, student: EncoderShape) -> None:
        super().__init__()
        self.weight, self.layer = config.weight, student.num_layers
        self.teacher_reads = Reads()
        self.student_reads = Reads(hidden_states=frozenset({self.layer}))
        self.pooler: nn.Module = nn.Sequential(nn.Linear(student.hidden_size, student.hidden_size), nn.Tanh())
        self.classifier: nn.Module = nn.Linear(student.hidden_size, 2)

    def attach(self, model: HuggingFaceModel) -> None:
        """Train the heads of AlbertForPreTraining in place of own ones."""
        if hasattr(model, "sop_classifier"):
            self.pooler = nn.Sequential(model.base_model.pooler, model.base_model.pooler_activation)
            self.classifier = model.sop_classifier

    def forward(self, teacher: Features, student: Features, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the terms for rows whose `order_labels` [B] are 1 for swapped texts, 0 for others, or -100."""
        labels = batch["order_labels"]
        logits = self.classifier(self.pooler(student.hidden_states[self.layer][:, 0])).float()  # [B, 2]
        errors = nn.functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
        num_pairs = (labels != IGNORED).sum()
        right = (logits.detach().argmax(-1) == labels).sum()
        return {
            "sentence_order": errors / batch.get("num_ordered", num_pairs).clamp(min=1),
            "sentence_order/asked": num_pairs / len(labels),
            "sentence_order/right": right / len(labels),
        }
