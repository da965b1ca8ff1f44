"""What a configuration asks of the machines: the work and the memory of its teacher and students, from sizes alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig

from launch.command_line.config_file import prefix_errors
from launch.distillation.config import RunConfig
from launch.planning.cluster import StudentWork, Work
from launch.planning.encoder_cost import EncoderCost
from pretrain.elastic.size import Size, cut_config, cut_shape
from pretrain.models.encoder import Reads, union
from pretrain.models.pretrained import load_pretrained
from pretrain.models.shape import EncoderShape
from pretrain.objectives.layers import PatientKD
from pretrain.objectives.objective import Objective
from pretrain.objectives.relations import Relations
from pretrain.objectives.replaced_tokens import ReplacedTokens
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
        whole = one.hugging_face_config(base_config(one, teacher, vocabulary))
        parts = [_plan_part(config, one, whole, size, shape) for size in _sizes_of(one)]
        reads += [part.teacher_reads for part in parts if teacher]
        students.append(_join_parts(one, parts))
    of_teacher = EncoderCost.of_config(teacher) if teacher else None
    return RunWork(of_teacher, union(reads), students, config.corpus.row_tokens)


def _sizes_of(student: StudentConfig) -> list[Size]:
    """Return the sizes of a student, the largest first: one, unless it is elastic."""
    whole = Size(student.num_layers, student.intermediate_size)
    return student.elastic.sizes(whole) if student.elastic else [whole]


def teacher_reads(student: StudentConfig, teacher: EncoderShape) -> Reads:
    """Return what all sizes of a student read of their teacher."""
    own = student.shape(teacher)
    inner = [cut_shape(own, size) for size in _sizes_of(student)]
    return union(one.build(teacher, size).teacher_reads for one in student.objective for size in inner)


def base_config(student: StudentConfig, teacher: Any, vocabulary: Vocabulary | None) -> Any:
    """Return the Hugging Face config that gives all but a student's sizes (see `build_student`)."""
    if student.architecture is None:
        return teacher
    num_ids, padding = vocabulary or (0, 0)
    if teacher is not None:
        num_ids, padding = teacher.vocab_size, teacher.pad_token_id or 0
    return student.architecture.build(num_ids, padding, teacher)


@dataclass(frozen=True)
class _Part:
    """One size of a student: what it reads and computes, a token's operations, and its objectives' own parameters."""

    size: Size
    cost: EncoderCost
    reads: Reads
    teacher_reads: Reads
    operations: float
    relation_numbers: float
    loss_parameters: int


def _plan_part(
    config: RunConfig, student: StudentConfig, whole: Any, size: Size, teacher: EncoderShape | None
) -> _Part:
    own, tokens = cut_config(whole, size), config.corpus.row_tokens
    shape, cost = EncoderShape.of(own), EncoderCost.of_config(own)
    with torch.device("meta"):
        objectives = [one.build(teacher or shape, shape) for one in student.objective]
    generators = [
        EncoderCost.of_config(one.config.generator.hugging_face_config(own))
        for one in objectives
        if isinstance(one, ReplacedTokens)
    ]
    reads = union(one.student_reads for one in objectives)
    operations = _FORWARD_AND_BACKWARD * cost.operations(reads, tokens)
    operations += sum(sum(_loss_operations(one, config, cost, teacher)) for one in objectives)
    operations += sum(_generator_operations(one, config, own) for one in generators)
    numbers = sum(one.num_relation_heads * len(one.pairs) for one in objectives if isinstance(one, Relations))
    parameters = sum(parameter.numel() for one in objectives for parameter in one.parameters())
    parameters += sum(one.in_layers for one in generators)
    read = union(one.teacher_reads for one in objectives)
    return _Part(size, cost, reads, read, operations, numbers * tokens, parameters)


def _join_parts(student: StudentConfig, parts: Sequence[_Part]) -> PlannedStudent:
    """Return a student whose work is that of the sizes that a step trains, on average."""
    largest = parts[0]
    shares = [1.0] * len(parts)
    if student.elastic and student.elastic.sample == "sandwich" and len(parts) > 3:
        shares[1:-1] = [1 / (len(parts) - 2)] * (len(parts) - 2)
    # Sizes of one depth share their objectives' parameters
    own = sum({part.size.num_layers: part.loss_parameters for part in parts}.values())
    operations, numbers = (
        sum(share * value for share, value in zip(shares, values, strict=True))
        for values in ([part.operations for part in parts], [part.relation_numbers for part in parts])
    )
    trained = largest.cost.reached_parameters(largest.reads) + own
    num_layers = round(sum(share * part.size.num_layers for share, part in zip(shares, parts, strict=True)))
    work = StudentWork(num_layers, operations, numbers, trained)
    return PlannedStudent(student, largest.cost, largest.reads, work, own)


def _generator_operations(generator: EncoderCost, config: RunConfig, student: Any) -> float:
    """Return a token's operations of ELECTRA's generator: its pass, its gradients, and its predictions."""
    states = Reads(hidden_states=frozenset({generator.num_layers}))
    width = getattr(student, "embedding_size", None) or student.hidden_size
    masked = config.corpus.masking.prob if config.corpus.masking else 0.0
    passes = _FORWARD_AND_BACKWARD * generator.operations(states, config.corpus.row_tokens)
    return passes + masked * vocabulary_operations(0, width, generator.num_ids)


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
