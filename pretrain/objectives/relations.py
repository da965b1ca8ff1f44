"""MiniLM's and MiniLMv2's objectives: the student's last layer learns the attention relations of a teacher layer."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from pretrain.models.encoder import Features, Reads, real_tokens
from pretrain.models.shape import EncoderShape
from pretrain.objectives.kernel_choice import Kernel, triton_problem
from pretrain.objectives.objective import Objective, ObjectiveConfig, Weight
from pretrain.objectives.relation_loss import relation_loss
from pretrain.settings import Problems

RelationName = Literal[
    "query-query", "query-key", "query-value",
    "key-query", "key-key", "key-value",
    "value-query", "value-key", "value-value",
]  # fmt: skip
RelationWeights = Annotated[dict[RelationName, Annotated[float, Field(gt=0)]], Field(min_length=1)]
_PUBLISHED: dict[RelationName, float] = {"query-query": 1.0, "key-key": 1.0, "value-value": 1.0}


class MiniLMv2Config(ObjectiveConfig):
    """MiniLMv2 (arXiv:2012.15828): the student's last layer learns the relations QQ, KK and VV of one teacher layer.

    Relations are between the tokens of a row, as in the paper. Between "rows" they are those of PP-MiniLM
    (PaddleNLP's sample-sample relations): a token is compared with the tokens at the same position of the other rows of
    its micro-batch. That needs train_micro_batch_size_per_gpu of 16 and more, and no accumulation or number of ranks
    makes up for a smaller one: rows of different micro-batches are never compared.
    """

    type: Literal["minilm_v2"]
    num_relation_heads: PositiveInt  # R; must divide both widths
    relations: RelationWeights = Field(default_factory=lambda: dict(_PUBLISHED))  # such as {"query-key": 1}: weights
    between: Literal["tokens", "rows"] = "tokens"  # of a row, or of the rows of a micro-batch at the same position
    teacher_layer: PositiveInt | None = None  # null: the paper's choice for this depth, a guess for other teachers
    rotated: bool = False  # in models with rotary positions, compare queries and keys after rotation, not before
    kernel: Kernel = "auto"  # auto: Triton on a GPU if it works, otherwise portable

    def problems(self, teacher: EncoderShape, student: EncoderShape) -> Problems:
        """Yield why the number of relation heads, the layers or the kernel do not fit these models, if so."""
        yield from _head_problems(self.num_relation_heads, teacher, student)
        yield from _layer_problems(self.teacher_layer, teacher, student)
        yield from rotation_problems(self.rotated, teacher, student)
        yield from _kernel_problems(self.kernel)

    def build(self, teacher: EncoderShape, student: EncoderShape) -> "Relations":
        """Build MiniLMv2's loss, equations 5 to 8."""
        layer = self.teacher_layer or published_teacher_layer(teacher)
        layers, rotated = (layer, student.num_layers), rotating(self.rotated, teacher, student)
        heads = self.num_relation_heads
        return Relations(self.relations, *layers, heads, self.kernel, self.weight, self.between, rotated)


class MiniLMConfig(ObjectiveConfig):
    """MiniLM (arXiv:2002.10957): attention (QK) and value relations (VV) of the last layers, equations 4 to 8.

    ERNIE-Tiny's KQ and VV losses are the same. By default R is the models' number of attention heads, as in the paper,
    which must then be the same in both; any other R must divide both widths.
    """

    type: Literal["minilm", "ernie_tiny"]
    num_relation_heads: PositiveInt | None = None  # null: the number of attention heads of both models
    teacher_layer: PositiveInt | None = None  # null: the last in which every token attends to all
    rotated: bool = False  # in models with rotary positions, compare queries and keys after rotation, not before
    kernel: Kernel = "auto"  # auto: Triton on a GPU if it works, otherwise portable

    def problems(self, teacher: EncoderShape, student: EncoderShape) -> Problems:
        """Yield why the number of relation heads, the layers or the kernel do not fit these models, if so."""
        heads, teacher_heads = student.num_attention_heads, teacher.num_attention_heads
        if self.num_relation_heads:
            yield from _head_problems(self.num_relation_heads, teacher, student)
        elif heads != teacher_heads:
            yield (
                "num_relation_heads",
                f"is required because the teacher has {teacher_heads} attention heads and the student {heads}; "
                f"legal values: {_legal_heads(teacher, student)}",
            )
        yield from _layer_problems(self.teacher_layer, teacher, student)
        yield from rotation_problems(self.rotated, teacher, student)
        yield from _kernel_problems(self.kernel)

    def build(self, teacher: EncoderShape, student: EncoderShape) -> "Relations":
        """Build MiniLM's loss, with weight 1 for each of QK and VV."""
        heads = self.num_relation_heads or student.num_attention_heads
        layers = self.teacher_layer or teacher.full_layer(teacher.num_layers), student.num_layers
        relations, rotated = {"query-key": 1.0, "value-value": 1.0}, rotating(self.rotated, teacher, student)
        return Relations(relations, *layers, heads, self.kernel, self.weight, rotated=rotated)


def _head_problems(heads: int, teacher: EncoderShape, student: EncoderShape) -> Problems:
    if teacher.attention_size % heads or student.attention_size % heads:
        yield (
            "num_relation_heads",
            f"must divide the widths of teacher ({teacher.attention_size}) and student ({student.attention_size}), "
            f"got {heads}; legal values: {_legal_heads(teacher, student)}",
        )


def _legal_heads(teacher: EncoderShape, student: EncoderShape) -> str:
    divisor = math.gcd(teacher.attention_size, student.attention_size)
    return ", ".join(str(heads) for heads in range(divisor, 0, -1) if divisor % heads == 0)


def _layer_problems(layer: int | None, teacher: EncoderShape, student: EncoderShape) -> Problems:
    if layer and layer > teacher.num_layers:
        most = teacher.num_layers
        yield (
            "teacher_layer",
            f"the teacher has {most} layers, got {layer}; try {most}, or an upper layer in short runs",
        )
    elif layer in teacher.sliding_layers:
        yield (
            "teacher_layer",
            f"tokens of the teacher's layer {layer} attend only to those within {teacher.window}, and relations are "
            f"between all of a row; the nearest layer without such a window is {teacher.full_layer(layer)}",
        )
    if student.num_layers in student.sliding_layers:
        yield (
            "type",
            f"tokens of the student's last layer attend only to those within {student.window}, and relations are "
            "between all of a row; end architecture.options.layer_types with full_attention",
        )


def rotation_problems(rotated: bool, teacher: EncoderShape, student: EncoderShape) -> Problems:
    """Yield why queries and keys cannot be read after rotation, if that is wanted."""
    for owner, one in (("teacher", teacher), ("student", student)):
        if rotated and one.family.scores_have_positions:
            message = f"a {one.model_type} {owner} adds positions inside its attention, where they cannot be read"
            yield "rotated", f"{message}; leave it false"


def rotating(rotated: bool, teacher: EncoderShape, student: EncoderShape) -> tuple[bool, bool]:
    """Return whether queries and keys of the teacher, and of the student, are read after rotation."""
    return rotated and teacher.is_rotary, rotated and student.is_rotary


def _kernel_problems(kernel: Kernel) -> Problems:
    problem = triton_problem("cuda" if torch.cuda.is_available() else "cpu") if kernel == "triton" else None
    if problem:
        yield "kernel", problem


class Relations(Objective):
    """KL between the relations of pairs of projections, such as query and query, one term per pair.

    Relations are between every two real tokens of a row, or of a document if the batch has `document_ids`. Each term
    is the mean over the real tokens of a row, then over rows, as in equation 6.

    Args:
        relations: weights of relations such as "query-key".
        between: "rows" for relations between the tokens at the same position of all rows; then a term is the mean over
            rows, then over positions.
        rotated: whether queries and keys of teacher and student are compared after rotation.
    """

    def __init__(
        self,
        relations: Mapping[Any, float],
        teacher_layer: int,
        student_layer: int,
        heads: int,
        kernel: Kernel,
        weight: Weight,
        between: Literal["tokens", "rows"] = "tokens",
        rotated: tuple[bool, bool] = (False, False),
    ) -> None:
        super().__init__()
        self.pairs = {_term(*name.split("-")): tuple(name.split("-")) for name in relations}
        self.shares = {_term(*name.split("-")): share for name, share in relations.items()}
        self.weight, self.num_relation_heads, self.kernel, self.between = weight, heads, kernel, between
        self.teacher_layer, self.student_layer = teacher_layer, student_layer
        self.rotated = rotated
        self.teacher_reads, self.student_reads = (
            Reads(projections=frozenset({layer}), rotated=frozenset({layer} if turned else ()))
            for layer, turned in zip((teacher_layer, student_layer), rotated, strict=True)
        )

    def forward(self, teacher: Features, student: Features, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a term per pair: `relation/query` for QQ, `relation/query_key` for QK, and so on."""
        mask, documents = real_tokens(batch) if "attention_mask" in batch else None, batch.get("document_ids")
        terms = {}
        if self.between == "rows":
            mask, documents = None if mask is None else mask.mT, None
        for name, (a, b) in self.pairs.items():
            target, output = (
                (self._read(features, a, layer, turned), self._read(features, b, layer, turned))
                for features, layer, turned in (
                    (teacher, self.teacher_layer, self.rotated[0]),
                    (student, self.student_layer, self.rotated[1]),
                )
            )
            if a == b:  # the same tensor: half the work
                target, output = (target[0],) * 2, (output[0],) * 2
            terms[name] = relation_loss(target, output, mask, self.num_relation_heads, self.kernel, documents=documents)
        return terms

    def _read(self, features: Features, name: str, layer: int, rotated: bool) -> Tensor:
        """Return a projection [B, L, D], or [L, B, D] to compare rows with one another."""
        tensor = features.projection(name, layer, rotated)
        return tensor.transpose(0, 1) if self.between == "rows" else tensor


def _term(a: str, b: str) -> str:
    return f"relation/{a}" if a == b else f"relation/{a}_{b}"


def published_teacher_layer(teacher: EncoderShape) -> int:
    """Return the teacher layer that MiniLMv2 chose (section 4.3) for its own teachers; a guess for all others.

    Layer 21 of BERT-large's 24, layer 19 of the 24 of large RoBERTa and XLM-R models, otherwise the last layer in which
    every token attends to all. Which layer is best differs by teacher: for another one, try layers in short runs and
    name the best in `teacher_layer`.
    """
    chosen = teacher.family.relation_layer_of_24
    return chosen if chosen and teacher.num_layers == 24 else teacher.full_layer(teacher.num_layers)
