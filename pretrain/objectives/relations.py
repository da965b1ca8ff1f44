"""MiniLM's and MiniLMv2's objectives: self-attention relations of one teacher layer into the student's last layer."""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor

from pretrain.models.encoder import EncoderShape, Features, Reads, real_tokens
from pretrain.objectives.kernel_choice import Kernel, triton_problem
from pretrain.objectives.objective import Objective, ObjectiveConfig, Weight
from pretrain.objectives.relation_loss import relation_loss
from pretrain.settings import Problems

Pairs = tuple[tuple[str, str], ...]


class MiniLMv2Config(ObjectiveConfig):
    """MiniLMv2 (arXiv:2012.15828): relations QQ, KK and VV of one teacher layer into the student's last layer."""

    compares_all_tokens = True

    type: Literal["minilm_v2"]
    num_relation_heads: PositiveInt  # R; divides both widths
    teacher_layer: PositiveInt | None = None  # null: the paper's choice for a teacher of this size
    kernel: Kernel = "auto"  # Triton's on a GPU where it works, the portable one elsewhere

    def problems(self, teacher: EncoderShape, student: EncoderShape) -> Problems:
        yield from _head_problems(self.num_relation_heads, teacher, student)
        yield from _layer_problems(self.teacher_layer, teacher)
        yield from _kernel_problems(self.kernel)

    def build(self, teacher: EncoderShape, student: EncoderShape) -> "Relations":
        """MiniLMv2 equations 5 to 8, the pairs weighted 1 each."""
        pairs = (("query", "query"), ("key", "key"), ("value", "value"))
        layer = self.teacher_layer or published_teacher_layer(teacher)
        return Relations(pairs, layer, student.num_layers, self.num_relation_heads, self.kernel, self.weight)


class MiniLMConfig(ObjectiveConfig):
    """MiniLM (arXiv:2002.10957): attention (QK) and value relations (VV) of the last layers, equations 4 to 8.

    ERNIE-Tiny's KQ and VV losses are the same. The paper's R is the models' own number of heads, so both must have as
    many; another R that divides both widths may be given instead.
    """

    compares_all_tokens = True

    type: Literal["minilm", "ernie_tiny"]
    num_relation_heads: PositiveInt | None = None  # their own attention heads, equal in number, unless given
    teacher_layer: PositiveInt | None = None  # null: the last
    kernel: Kernel = "auto"  # Triton's on a GPU where it works, the portable one elsewhere

    def problems(self, teacher: EncoderShape, student: EncoderShape) -> Problems:
        heads, others = student.num_attention_heads, teacher.num_attention_heads
        if self.num_relation_heads:
            yield from _head_problems(self.num_relation_heads, teacher, student)
        elif heads != others:
            yield (
                "num_relation_heads",
                f"must be given where the teacher has {others} attention heads and the student {heads}; "
                f"legal values: {_legal_heads(teacher, student)}",
            )
        yield from _layer_problems(self.teacher_layer, teacher)
        yield from _kernel_problems(self.kernel)

    def build(self, teacher: EncoderShape, student: EncoderShape) -> "Relations":
        heads = self.num_relation_heads or student.num_attention_heads
        layer = self.teacher_layer or teacher.num_layers
        return Relations(
            (("query", "key"), ("value", "value")), layer, student.num_layers, heads, self.kernel, self.weight
        )


def _head_problems(heads: int, teacher: EncoderShape, student: EncoderShape) -> Problems:
    if teacher.hidden_size % heads or student.hidden_size % heads:
        yield (
            "num_relation_heads",
            f"must divide the widths of teacher ({teacher.hidden_size}) and student ({student.hidden_size}), "
            f"got {heads}; legal values: {_legal_heads(teacher, student)}",
        )


def _legal_heads(teacher: EncoderShape, student: EncoderShape) -> str:
    both = math.gcd(teacher.hidden_size, student.hidden_size)
    return ", ".join(str(heads) for heads in range(both, 0, -1) if both % heads == 0)


def _layer_problems(layer: int | None, teacher: EncoderShape) -> Problems:
    if layer and layer > teacher.num_layers:
        yield "teacher_layer", f"the teacher has {teacher.num_layers} layers, got {layer}"


def _kernel_problems(kernel: Kernel) -> Problems:
    problem = triton_problem("cuda" if torch.cuda.is_available() else "cpu") if kernel == "triton" else None
    if problem:
        yield "kernel", problem


class Relations(Objective):
    """KL of the relations of pairs of projections, one term a pair.

    Every two real tokens of a row are related, those of different documents too, whatever the models attend to.
    """

    def __init__(
        self, pairs: Pairs, teacher_layer: int, student_layer: int, heads: int, kernel: Kernel, weight: Weight
    ) -> None:
        super().__init__()
        self.pairs, self.weight, self.num_relation_heads, self.kernel = pairs, weight, heads, kernel
        self.teacher_layer, self.student_layer = teacher_layer, student_layer
        self.teacher_reads = Reads(projections=frozenset({teacher_layer}))
        self.student_reads = Reads(projections=frozenset({student_layer}))

    def forward(self, teacher: Features, student: Features, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`relation/query` for QQ, `relation/query_key` for QK."""
        mask, terms = real_tokens(batch) if "attention_mask" in batch else None, {}
        for a, b in self.pairs:
            of_teacher = getattr(teacher, a)[self.teacher_layer], getattr(teacher, b)[self.teacher_layer]
            of_student = getattr(student, a)[self.student_layer], getattr(student, b)[self.student_layer]
            name = a if a == b else f"{a}_{b}"
            terms[f"relation/{name}"] = relation_loss(
                of_teacher, of_student, mask, self.num_relation_heads, self.kernel
            )
        return terms


def published_teacher_layer(teacher: EncoderShape) -> int:
    """MiniLMv2, section 4.3: the last layer of a base model, 21 of 24 of BERT-large, 19 of 24 of RoBERTa and XLM-R."""
    if teacher.num_layers != 24:
        return teacher.num_layers
    return 19 if teacher.model_type in ("roberta", "xlm-roberta") else 21
