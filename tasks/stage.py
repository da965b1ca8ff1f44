"""A stage of task training (FT, TD1 or TD2), run by the trainer of general distillation on a task's rows."""

import gc
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.distributed as dist
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor
from transformers import AutoTokenizer

from pretrain.elastic.subnetwork import Network
from pretrain.engines.deepspeed_config import DeepSpeedConfig
from pretrain.engines.engine import StudentEngine
from pretrain.models.encoder import Reads, without_padding
from pretrain.models.pretrained import load_pretrained
from pretrain.models.shape import EncoderShape
from pretrain.models.teacher import Teacher, TeacherFunction, no_teacher
from pretrain.objectives.objective import Objective
from pretrain.optimizer import OptimizerConfig, ScheduleConfig
from pretrain.precision import WantedDtype, autocast
from pretrain.progress import Progress
from pretrain.quantization import QuantizationConfig
from pretrain.ranks.stopping import StopReason
from pretrain.ranks.together import gather_objects
from pretrain.settings import Settings
from pretrain.students.initialization import map_back, seeded
from pretrain.students.student import Student
from pretrain.training.trainer import LoopConfig, Trainer, TrainingConfig
from tasks.adversarial import AdversarialConfig, AdversarialStudent
from tasks.batches import TaskBatches
from tasks.config import TaskConfig
from tasks.evaluation import predict, score
from tasks.examples import Example
from tasks.kinds.kind import TaskData
from tasks.label_objectives import TaskObjective
from tasks.models import TaskModel, load_task_model
from tasks.readers import encode
from tasks.rows import Row, Tokenizer, without_labels
from tasks.teachers import Answers, EachTeacher, SeveralTeachers, WeightedTeacher, askable, shares_of


def release_memory() -> None:
    """Free the memory of finished stages: engines are reference cycles, which a full device does not collect."""
    gc.collect()
    torch.cuda.empty_cache()  # does nothing without CUDA


class StageConfig(Settings):
    """How one stage trains its student."""

    epochs: Annotated[float, Field(gt=0)] = 3.0
    dropout_prob: Annotated[float, Field(ge=0, lt=1)] = 0.1
    optimizer: OptimizerConfig
    schedule: ScheduleConfig = ScheduleConfig(warmup_ratio=0.1)
    objective: Annotated[list[TaskObjective], Field(min_length=1)]
    quantization: QuantizationConfig | None = None  # of the last part of the stage, as launch/export.py rounds
    adversarial: AdversarialConfig | None = None  # also train on embeddings perturbed to where the loss is larger

    @field_validator("adversarial")
    @classmethod
    def _check_labels(cls, value: Any, info: ValidationInfo) -> Any:
        objectives = info.data.get("objective", [])  # empty if they are wrong themselves
        if value and objectives and not any(one.reads_task_head for one in objectives):
            raise ValueError(
                f"{value.type} needs a loss of the predictions, which this stage does not train: add an objective of "
                "type labels or soft_labels, or give adversarial to ft or td2"
            )
        return value

    @property
    def reads_labels(self) -> bool:
        """Whether an objective trains the student's head, so that the student can be scored."""
        return any(one.reads_task_head for one in self.objective)

    @property
    def needs_teacher_head(self) -> bool:
        """Whether an objective reads the teacher's predictions."""
        return any(one.reads_task_teacher for one in self.objective)

    @property
    def needs_teacher(self) -> bool:
        """Whether an objective needs a teacher."""
        return any(one.needs_teacher for one in self.objective)


@dataclass(frozen=True)
class EncodedTask:
    """A task's data, encoded with one tokenizer."""

    config: TaskConfig
    data: TaskData
    tokenizer: Tokenizer
    train: list[Row]
    dev: list[Row]
    unlabelled: list[Row]


@Progress("encoding the examples")
def encode_task(config: TaskConfig, data: TaskData, tokenizer_path: str) -> EncodedTask:
    """Encode the training, development and unlabelled examples of a task; warn about texts that are cut.

    Raise ValueError if the tokenizer cannot be loaded.
    """
    tokenizer = load_pretrained(AutoTokenizer, tokenizer_path)
    parts = (data.train, data.dev, data.unlabelled)
    train, dev, more = (encode(part, config, data.labels, tokenizer) for part in parts)
    for cut in dict.fromkeys(filter(None, (train.cut, dev.cut, more.cut))):
        warnings.warn(cut, stacklevel=2)
    return EncodedTask(config, data, tokenizer, train.rows, dev.rows, list(map(without_labels, more.rows)))


class Stage:
    """One stage with its student and trainer, ready to train. Create it on every rank.

    Args:
        run: folder for checkpoints and metrics; training resumes from the newest checkpoint.
        name: the student's name in metrics and checkpoints.
        student: folder or hub id of a model, with or without a head for the task.
        teacher: the same for the teacher, or several teachers that are fine-tuned already; None if no objective needs
            one.
        loop: its seed determines a new head, the order of examples and dropout.

    Raises:
        ValueError: if a model cannot be loaded or has a head for another task.
    """

    def __init__(
        self,
        run: Path,
        name: str,
        task: EncodedTask,
        config: StageConfig,
        student: str,
        teacher: str | Sequence[WeightedTeacher] | None,
        teacher_dtype: WantedDtype,
        loop: LoopConfig,
        deepspeed: DeepSpeedConfig,
        device: torch.device,
        stop_requested: Callable[[], StopReason] = lambda: StopReason.NONE,
    ) -> None:
        self.run, self.task, self.config, self.device = run, task, config, device
        model = load_task_model(student, task.config.kind, task.data.labels, loop.seed)
        with seeded(loop.seed):
            self.student, teacher_function = self._build(name, model, teacher, teacher_dtype)
        rank, world_size = dist.get_rank(), dist.get_world_size()
        rows = [*task.train, *(task.unlabelled if config.needs_teacher else ())]
        batches = TaskBatches(rows, task.tokenizer.pad_token_id, deepspeed.train_batch_size, loop.seed)
        total_steps = max(1, round(config.epochs * batches.steps_per_epoch))
        # In a single epoch every row is asked about once anyway
        if config.epochs > 1 and (answers := self._ask(teacher_function, rows)):
            batches.answers = teacher_function = answers
            release_memory()  # that of the teachers
        first = batches.batch(range(min(2, len(rows))))
        self.unreached = self.student.freeze_unreached(teacher_function, self._to_device(first))
        engine = StudentEngine(self.student, config, deepspeed, total_steps, world_size)
        micro_rows = deepspeed.micro_rows(world_size)
        self.trainer = Trainer(
            run,
            TrainingConfig(total_steps=total_steps, **loop.model_dump()),
            teacher_function,
            [engine],
            lambda position: batches.batches(position, micro_rows, rank, world_size),
            deepspeed.train_batch_size,
            device,
            stop_requested,
        )

    def _build(
        self, name: str, model: TaskModel, teacher: str | Sequence[WeightedTeacher] | None, dtype: WantedDtype
    ) -> tuple[Student, TeacherFunction]:
        config, own = self.config, EncoderShape.of(model.config)
        if not config.needs_teacher:
            objectives = [objective.build(own, own) for objective in config.objective]
            return self._student(name, model, objectives).to(self.device), no_teacher
        assert teacher is not None
        task = self.task
        if not isinstance(teacher, str):
            return self._build_several(name, model, teacher, dtype)
        large = load_task_model(teacher, task.config.kind, task.data.labels, 0, config.needs_teacher_head)
        objectives = [objective.build(EncoderShape.of(large.config), own) for objective in config.objective]
        student = self._student(name, model, objectives)
        student.start_from(map_back(large.base_model, model.base_model))
        return student.to(self.device), Teacher(large, [student.teacher_reads], dtype, self.device)

    def _build_several(
        self, name: str, model: TaskModel, teachers: Sequence[WeightedTeacher], dtype: WantedDtype
    ) -> tuple[Student, TeacherFunction]:
        """Return the student with its losses against all teachers, each of which is read no further than its own."""
        config, task, own = self.config, self.task, EncoderShape.of(model.config)
        objectives: list[Objective] = []
        reads: list[list[Reads]] = [[] for _ in teachers]
        models = [
            load_task_model(one.path, task.config.kind, task.data.labels, 0, config.needs_teacher_head)
            for one in teachers
        ]
        for objective in config.objective:
            of_layers = objective.needs_teacher and not objective.reads_task_teacher
            each = [objective.build(EncoderShape.of(one.config) if of_layers else own, own) for one in models]
            for index, one in enumerate(each):
                reads[index].append(one.teacher_reads)
                if of_layers and (basis := map_back(models[index].base_model, model.base_model)) is not None:
                    one.start_from(basis)
            objectives.append(EachTeacher(each) if of_layers else each[0])
        student = self._student(name, model, objectives).to(self.device)
        frozen = [Teacher(one, read, dtype, self.device) for one, read in zip(models, reads, strict=True)]
        return student, SeveralTeachers(frozen, shares_of(teachers))

    def _student(self, name: str, model: TaskModel, objectives: Sequence[Objective]) -> Student:
        config = self.config
        settings: dict[str, Any] = {"dropout_prob": config.dropout_prob, "quantization": config.quantization}
        if config.adversarial:
            return AdversarialStudent(name, model, objectives, adversarial=config.adversarial, **settings)
        return Student(name, model, objectives, **settings)

    def _to_device(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.to(self.device) for name, tensor in without_padding(batch).items()}

    def score(
        self, rows: Sequence[Row], examples: Sequence[Example], network: Network | None = None
    ) -> dict[str, float]:
        """Return every metric of the task's kind on encoded examples. Every rank must call it and predicts a share.

        Args:
            network: a smaller size of an elastic student; the whole by default.

        Raise ValueError if no objective trains a head (`config.reads_labels`).
        """
        if not self.config.reads_labels:
            raise ValueError(f"{self.student.name}: no objective trains its head, so it cannot be scored")
        network = network or self.student.encoder
        self.student.eval()
        network.eval()
        with autocast(self.device, self.student.dtype):
            logits = self._predict(network, rows, "scoring")
        self.student.train()
        return score(logits, rows, examples, self.task.config, self.task.data.labels)

    def _ask(self, teacher: TeacherFunction, rows: Sequence[Row]) -> Answers | None:
        """Let teachers answer every row once, if nothing else is read of them. Every rank must call it, for a share."""
        teachers, shares = askable(teacher, rows)
        logits = [
            self._predict(one, rows, f"asking teacher {number} of {len(teachers)}")
            for number, one in enumerate(teachers, 1)
        ]
        return Answers(logits, shares) if logits else None

    def _predict(self, model: TeacherFunction, rows: Sequence[Row], phase: str) -> list[Tensor]:
        """Return the logits of every row on every rank, each of which computes a share."""
        rank, world_size, pad_token_id = dist.get_rank(), dist.get_world_size(), self.task.tokenizer.pad_token_id
        own = predict(partial(self._logits, model), rows[rank::world_size], pad_token_id, progress=phase)
        shares = gather_objects(own)
        return [shares[index % world_size][index // world_size] for index in range(len(rows))]

    def _logits(self, model: TeacherFunction, batch: Mapping[str, Tensor]) -> Tensor:
        logits = model(self._to_device(batch)).logits
        assert logits is not None
        return logits
