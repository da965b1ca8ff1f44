"""What a configuration asks of the machines: the work and the memory of its teacher and students, from sizes alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig

from launch.command_line.config_file import prefix_errors
from launch.distillation.config import RunConfig
from launch.planning.cluster import StudentWork, Work
from launch.planning.encoder_cost import EncoderCost
from pretrain.models.encoder import Reads, union
from pretrain.models.pretrained import load_pretrained
from pretrain.models.shape import EncoderShape
from pretrain.objectives.layers import PatientKD
from pretrain.objectives.objective import Objective
from pretrain.objectives.relations import Relations
from pretrain.objectives.sentence import Sentence
from pretrain.objectives.vocabulary import DistilBERT, MaskedLM
from pretrain.students.config import StudentConfig

_FORWARD_AND_BACKWARD = 3  # a backward pass takes two forward passes' operations
Vocabulary = tuple[int, int]  # the number of ids, and that of padding


@dataclass(frozen=True)
class PlannedStudent:
    """A student before it is built.

    Attributes:
        loss_parameters: of its objectives' own projections.
    """

    config: StudentConfig
    cost: EncoderCost
    reads: Reads
    work: StudentWork
    loss_parameters: int

    @property
    def trained(self) -> int:
        """Parameters that an objective reaches, those of projections included."""
        return self.cost.reached_parameters(self.reads) + self.loss_parameters


@dataclass(frozen=True)
class RunWork:
    """The teacher, or None, what is read of it, and the students."""

    teacher: EncoderCost | None
    teacher_reads: Reads
    students: list[PlannedStudent]
    row_tokens: int

    @property
    def work(self) -> Work:
        """The work of a token."""
        operations = self.teacher.operations(self.teacher_reads, self.row_tokens) if self.teacher else 0.0
        return Work(self.teacher_reads.num_layers, operations, [one.work for one in self.students])

    def memory_bytes(self, rows: int, teacher_bytes: int, student_bytes: int, shards: int = 1) -> float:
        """Return roughly the memory of a rank in a step, without that of libraries.

        Weights of the teacher, those of all students with gradients and AdamW's two moments in float32, what the
        teacher gives, and what the backward pass of the largest student needs of its forward pass.

        Args:
            rows: of a micro-batch.
            teacher_bytes, student_bytes: of a number in the types that they compute in.
            shards: ranks among which AdamW's moments are divided (ZeRO 1 and 2).
        """
        tokens, given, weights = rows * self.row_tokens, 0.0, 0.0
        if self.teacher:
            reads = self.teacher_reads
            states = len(reads.hidden_states) * self.teacher.hidden_size
            given = states + 3 * len(reads.projections | reads.rotated) * self.teacher.attention_size
            weights = teacher_bytes * self.teacher.reached_parameters(reads)
        for one in self.students:
            weights += 4 * (one.cost.parameters + one.loss_parameters) + (4 + 8 / shards) * one.trained
        kept = max(one.reads.num_layers * _kept_numbers(one.cost) for one in self.students)
        return weights + tokens * (teacher_bytes * given + student_bytes * kept)


def _kept_numbers(cost: EncoderCost) -> float:
    """Return the numbers of a token that a layer keeps for its backward pass with fused attention: inputs of its
    products, its norms and its activation."""
    inner = (cost.layer_weights - 4 * cost.hidden_size * cost.attention_size) / (2 * cost.hidden_size)
    return 4 * cost.hidden_size + 4 * cost.attention_size + 2 * inner


def read_work(config: RunConfig, vocabulary: Vocabulary | None) -> RunWork:
    """Return the work of a run. Of the teacher its config alone is read.

    Args:
        vocabulary: that of the corpus, which a run without a teacher takes. ValueError if it is needed and None.
    """
    with prefix_errors("teacher.path"):
        teacher = load_pretrained(AutoConfig, config.teacher.path) if config.teacher else None
        shape = EncoderShape.of(teacher) if teacher else None
    config.check(shape)
    if teacher is None and vocabulary is None:
        raise ValueError("corpus.manifest: a run without a teacher needs the corpus for its vocabulary: build it first")
    students, reads = [], [Reads()]
    for one in config.students:
        base = base_config(one, teacher, vocabulary)
        own = EncoderShape.of(one.hugging_face_config(base))
        with torch.device("meta"):
            objectives = [objective.build(shape or own, own) for objective in one.objective]
        reads += [objective.teacher_reads for objective in objectives if teacher]
        cost = EncoderCost.of_config(one.hugging_face_config(base))
        students.append(_plan_student(config, one, cost, objectives, shape))
    of_teacher = EncoderCost.of_config(teacher) if teacher else None
    return RunWork(of_teacher, union(reads), students, config.corpus.row_tokens)


def base_config(student: StudentConfig, teacher: Any, vocabulary: Vocabulary | None) -> Any:
    """Return the Hugging Face config that gives all but a student's sizes (see `build_student`)."""
    if student.architecture is None:
        return teacher
    num_ids, padding = vocabulary or (0, 0)
    if teacher is not None:
        num_ids, padding = teacher.vocab_size, teacher.pad_token_id or 0
    return student.architecture.build(num_ids, padding, teacher)


def _plan_student(
    config: RunConfig,
    student: StudentConfig,
    cost: EncoderCost,
    objectives: list[Objective],
    teacher: EncoderShape | None,
) -> PlannedStudent:
    reads = union(one.student_reads for one in objectives)
    tokens = config.corpus.row_tokens
    losses = sum(sum(_loss_operations(one, config, cost, teacher)) for one in objectives)
    numbers = sum(one.num_relation_heads * len(one.pairs) for one in objectives if isinstance(one, Relations))
    own = sum(parameter.numel() for one in objectives for parameter in one.parameters())
    operations = _FORWARD_AND_BACKWARD * cost.operations(reads, tokens) + losses
    trained = cost.reached_parameters(reads) + own
    return PlannedStudent(
        student, cost, reads, StudentWork(cost.num_layers, operations, numbers * tokens, trained), own
    )


def relation_operations(teacher_width: int, student_width: int, num_tokens: int) -> float:
    """Return a token's operations for one relation with so many tokens: products of both models, and the student's
    gradient of both its factors."""
    return 2 * num_tokens * (teacher_width + _FORWARD_AND_BACKWARD * student_width)


def vocabulary_operations(teacher_width: int, student_width: int, num_ids: int) -> float:
    """Return a token's operations for a loss on predictions: logits of both models, and the student's gradients.

    A teacher that is not read has width 0.
    """
    return 2 * num_ids * (teacher_width + _FORWARD_AND_BACKWARD * student_width)


def _loss_operations(
    objective: Objective, config: RunConfig, cost: EncoderCost, teacher: EncoderShape | None
) -> Iterator[float]:
    """Yield a token's operations: of the objective's own matrices, of relations and of predictions.

    Other losses, such as those of attention scores by d x d matrices, are small beside these and not counted.
    """
    if matrices := [one.numel() for one in objective.parameters() if one.ndim == 2]:
        times = max(len(objective.student_reads.hidden_states) / len(matrices), 1)  # one may serve several layers
        rows = config.corpus.row_tokens if isinstance(objective, Sentence | PatientKD) else 1  # a vector a row
        yield _FORWARD_AND_BACKWARD * 2 * times * sum(matrices) / rows
    if isinstance(objective, Relations) and teacher:
        compared = config.corpus.row_tokens if objective.between == "tokens" else config.deepspeed.micro_rows(1)
        yield len(objective.pairs) * relation_operations(teacher.attention_size, cost.attention_size, compared)
    masked = config.corpus.masking.prob if config.corpus.masking else 0.0
    if isinstance(objective, MaskedLM) or (isinstance(objective, DistilBERT) and objective.shares["distilbert/mlm"]):
        yield masked * vocabulary_operations(0, cost.hidden_size, cost.num_ids)
    if isinstance(objective, DistilBERT) and teacher:
        share = 1.0 if objective.positions == "real" else masked
        yield share * vocabulary_operations(teacher.hidden_size, cost.hidden_size, cost.num_ids)
