"""The time that a step's parts take on this machine: measured on random rows and random weights of the right sizes.

No weights are loaded, no process group is started, and nothing is saved.
"""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

from launch.distillation.config import RunConfig
from launch.planning.work import Vocabulary, base_config, teacher_reads
from pretrain.models.encoder import Features, HuggingFaceModel
from pretrain.models.pretrained import load_pretrained
from pretrain.models.shape import EncoderShape
from pretrain.models.teacher import Teacher, TeacherFunction, no_teacher
from pretrain.models.vocabulary_head import VocabularyHead
from pretrain.objectives.vocabulary import IGNORED, with_places
from pretrain.optimizer import OptimizerConfig, build_optimizer
from pretrain.precision import choose_dtype
from pretrain.progress import Progress
from pretrain.students.initialization import InitConfig
from pretrain.students.student import Student, build_student

TIMED_ROUNDS = 3
_LONG_ENOUGH_SECONDS = 1.0  # a teacher's pass that takes this tells the time of a larger one
_MORE_ROWS = 4  # times as many, if it took less


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step on one device.

    Attributes:
        rows: of the micro-batch that was timed.
        teacher: of its pass over one row.
        students: forward and backward of one row, by student.
        optimizers: clipping and AdamW of all students, once a step.
    """

    rows: int
    teacher: float
    students: tuple[float, ...]
    optimizers: float

    def seconds(self, rows: int) -> float:
        """Return the seconds of a step of so many rows."""
        return rows * (self.teacher + sum(self.students)) + self.optimizers


@Progress("timing a step on this machine")
def time_step(config: RunConfig, device: torch.device, vocabulary: Vocabulary | None = None) -> StepTime:
    """Time a step of a configuration: medians of three rounds, after one that warms up.

    Rows are those of a micro-batch, or as many as take the teacher a second. Students are built one after another.

    Args:
        vocabulary: needed without a teacher.
    """
    teacher, model, head = _random_teacher(config, device)
    most, rows = config.deepspeed.micro_rows(1), 1
    num_ids = model.config.vocab_size if model is not None else (vocabulary or (1, 0))[0]
    while True:
        batch = _random_batch(config, rows, num_ids, device)
        seconds = _median_seconds(lambda: teacher(batch), device)  # noqa: B023
        if rows == most or seconds > _LONG_ENOUGH_SECONDS:
            break
        rows = min(_MORE_ROWS * rows, most)
    features, students, optimizers = teacher(batch), [], 0.0
    for one in config.students:
        plain = one.model_copy(update={"init": InitConfig(embeddings="scratch")})
        base = base_config(one, None, vocabulary) if model is None else None
        student = build_student(plain, model, config.training.seed, teacher_head=head, base=base).to(device)
        student.dtype = choose_dtype(config.deepspeed.torch_autocast.wanted, device)
        student.begin_step(0, config.training.total_steps)
        clipping = config.deepspeed.gradient_clipping
        passes, update = _time_student(student, one.optimizer, clipping, batch, features)
        students.append(passes / rows)
        optimizers += update
    return StepTime(rows, seconds / rows if model is not None else 0.0, tuple(students), optimizers)


def _random_teacher(
    config: RunConfig, device: torch.device
) -> tuple[TeacherFunction, HuggingFaceModel | None, VocabularyHead | None]:
    """Return the teacher with random weights, cut above what is read, its encoder and its masked-language head."""
    if config.teacher is None:
        return no_teacher, None, None
    sizes = load_pretrained(AutoConfig, config.teacher.path)
    kind = AutoModelForMaskedLM if config.needs_teacher_head else AutoModel
    whole = kind.from_config(sizes, dtype=torch.float32)
    head = VocabularyHead(whole) if config.needs_teacher_head else None
    model, shape = whole.base_model, EncoderShape.of(sizes)
    if hasattr(model, "pooler"):
        model.pooler = None
    reads = [teacher_reads(one, shape) for one in config.students]
    return Teacher(model, reads, config.teacher.dtype, device, head), model, head


def _random_batch(config: RunConfig, rows: int, num_ids: int, device: torch.device) -> dict[str, Tensor]:
    """Return random ids [B, L], the share of them labelled that the corpus masks, and what else objectives read."""
    share = config.corpus.masking.prob if config.corpus.masking else 0.0
    ids = torch.randint(num_ids, (rows, config.corpus.row_tokens))
    labels = torch.where(torch.rand(ids.shape) < share, ids, IGNORED)
    batch = with_places({"input_ids": ids, "token_type_ids": torch.zeros_like(ids), "labels": labels})
    batch |= {"draws": torch.rand(ids.shape, dtype=torch.float64), "order_labels": torch.randint(2, (rows,))}
    return {name: tensor.to(device) for name, tensor in batch.items()}


def _time_student(
    student: Student, config: OptimizerConfig, clipping: float, batch: dict[str, Tensor], features: Features
) -> tuple[float, float]:
    """Return the seconds of a forward and backward pass, and of clipping and an AdamW step."""
    device = batch["input_ids"].device

    def passes() -> None:
        student(batch, features)[0].backward()

    def update() -> None:
        torch.nn.utils.clip_grad_norm_(student.parameters(), clipping or math.inf)
        optimizer.step()

    both = _median_seconds(passes, device)
    for parameter in student.parameters():
        parameter.requires_grad_(parameter.grad is not None)  # what no objective reaches is frozen
    optimizer = build_optimizer(student, config, student.encoder.model.base_model)
    return both, _median_seconds(update, device)


def _median_seconds(function: Callable[[], object], device: torch.device) -> float:
    """Return the median of three calls, after one that warms up."""
    seconds = []
    for _ in range(1 + TIMED_ROUNDS):
        started = time.perf_counter()
        function()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])
