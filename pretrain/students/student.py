"""A student: its encoder and its objectives in one module, and building it from a configuration."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForMaskedLM

from pretrain.models.encoder import Encoder, Features, HuggingFaceModel, union
from pretrain.models.shape import EncoderShape
from pretrain.models.teacher import TeacherFunction
from pretrain.models.vocabulary_head import VocabularyHead, auto_class_of
from pretrain.objectives.objective import Objective
from pretrain.precision import Dtype, autocast
from pretrain.progress import Progress
from pretrain.quantization import QuantizationConfig, Rounding, check_rounding
from pretrain.students.config import StudentConfig
from pretrain.students.initialization import initialize, seeded


class Student(nn.Module):
    """An encoder with its objectives; `forward` returns the loss to train on.

    Args:
        name: prefix of its metrics and name of its folder in checkpoints.
        model: a Hugging Face encoder, or a task model that contains one.
        objectives: the losses; their projections are trained too.
        dropout_prob: replaces the dropout probability of the model.
        head: its masked-language head if an objective needs one; published together with the encoder.
        quantization: the arithmetic of the last part of the run. ValueError if the model has layers that it leaves out.
    """

    def __init__(
        self,
        name: str,
        model: HuggingFaceModel,
        objectives: Sequence[Objective],
        dropout_prob: float = 0.0,
        head: VocabularyHead | None = None,
        quantization: QuantizationConfig | None = None,
    ) -> None:
        super().__init__()
        self.head = head
        self.name = name
        self.quantization = quantization
        if quantization:
            check_rounding(model, quantization.weights)
        self.dtype: Dtype = "float32"  # the type `forward` computes in; weights stay float32
        self.progress = 0.0  # share of the run's steps that is done, for schedules of weights
        self.loss_scale: Tensor | float = 1.0  # by which the loss is multiplied before its backward pass, in float16
        self.objectives = nn.ModuleList(objectives)
        self.encoder = Encoder(model, union(objective.student_reads for objective in objectives))
        self.teacher_reads = union(objective.teacher_reads for objective in objectives)
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = dropout_prob
        self.train()  # models loaded from a folder are in evaluation mode, without dropout

    @property
    def needs_counts(self) -> bool:
        """Whether an objective averages over all tokens of a step (see `Objective.reduction`)."""
        return any(objective.reduction == "tokens" for objective in self.objectives)

    def begin_step(self, step: int, total_steps: int) -> None:
        """Compute from now on as the step after `step` of the run's steps does, by the schedules of the student."""
        self.progress = step / total_steps
        rounded = self.quantization
        is_due = rounded and rounded.is_due(step, total_steps)
        self.encoder.arithmetic = Rounding(rounded.weights) if rounded and is_due else nullcontext()

    @property
    def published(self) -> HuggingFaceModel:
        """The model that is saved and published: the encoder, with its masked-language head if it has one."""
        return self.head.model if self.head else self.encoder.model

    def forward(self, batch: Mapping[str, Tensor], teacher: Features) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted loss of one micro-batch, a float32 scalar, and by name its unweighted, detached terms.

        Args:
            batch: tensors [B, L] (see Encoder.forward and Objective.forward).
            teacher: the teacher's features for this batch.
        """
        with autocast(batch["input_ids"].device, self.dtype):
            return self._loss(batch, teacher)

    def _loss(self, batch: Mapping[str, Tensor], teacher: Features) -> tuple[Tensor, dict[str, Tensor]]:
        features: Features = self.encoder(batch)
        features.head = self.head
        total, terms = torch.zeros((), device=batch["input_ids"].device), {}
        for index, objective in enumerate(self.objectives):
            assert isinstance(objective, Objective)
            parts = objective(teacher, features, batch)
            total = total + objective.total(parts, self.progress)
            for name, value in parts.items():
                terms[f"{name}/{index}" if name in terms else name] = value.detach()
        return total, {"loss": total.detach(), **terms}

    def start_from(self, basis: Tensor | None) -> None:
        """Start the objectives' projections at a map [D_teacher, D_student], if there is one."""
        if basis is not None:
            for objective in self.objectives:
                assert isinstance(objective, Objective)
                objective.start_from(basis)

    @Progress("finding weights that no objective trains")
    def freeze_unreached(self, teacher: TeacherFunction, batch: Mapping[str, Tensor] | None = None) -> list[str]:
        """Freeze the parameters that no objective trains, and return their names within the encoder.

        They are those without a gradient after one backward pass on `batch`, or on a few tokens. Otherwise DeepSpeed
        would give them zero gradients and weight decay would shrink them.
        """
        if batch is None:
            ids = torch.arange(16, device=next(self.parameters()).device).view(2, 8)
            ids = ids % self.encoder.shape.vocab_size
            batch = {"input_ids": ids, "token_type_ids": torch.zeros_like(ids), "labels": ids}
        self(batch, teacher(batch))[0].backward()
        for parameter in self.parameters():
            parameter.requires_grad_(parameter.grad is not None)
            parameter.grad = None
        return [name for name, parameter in self.encoder.model.named_parameters() if not parameter.requires_grad]


def build_student(
    config: StudentConfig,
    teacher: HuggingFaceModel | None,
    seed: int,
    sample: Mapping[str, Tensor] | None = None,
    teacher_head: VocabularyHead | None = None,
    base: Any = None,
    pad_token_id: int | None = None,
) -> Student:
    """Build a student of the teacher's family, or that of `config.architecture`, reproducibly for a seed.

    It has the initial weights of `config.init`.

    A masked-language head starts as the published student's (`config.init.student`), or as the teacher's if the
    embeddings do and the widths are equal, otherwise at random.

    Args:
        teacher: the teacher's Hugging Face encoder, before it is cut; None in a run without a teacher.
        sample: a batch of text [B, L], needed if `config.init` reads text. ValueError without it.
        teacher_head: the teacher's masked-language head if it was loaded.
        base: without a teacher, the Hugging Face config that gives all but the student's sizes.
        pad_token_id: what rows are padded with, for a student of another family; the teacher's, or 0, if not given.
    """
    with seeded(seed):
        if teacher is not None:
            base = teacher.config
        shape = EncoderShape.of(base)
        if teacher is not None and config.architecture:
            padding = (base.pad_token_id or 0) if pad_token_id is None else pad_token_id
            base = config.architecture.build(base.vocab_size, padding, teacher.config)
        model, head = _build_model(config, base)
        objectives = [objective.build(shape, EncoderShape.of(model.config)) for objective in config.objective]
        student = Student(config.name, model, objectives, config.dropout_prob, head, config.quantization)
        if teacher is None:
            return student
        student.start_from(initialize(model, teacher, config.init, sample))
        if head:
            _start_head(head, config, teacher_head)
        return student


@torch.no_grad()
def _start_head(head: VocabularyHead, config: StudentConfig, teacher_head: VocabularyHead | None) -> None:
    source = teacher_head if config.init.embeddings == "teacher" else None
    if config.init.student:
        kind = auto_class_of(Path(config.init.student))
        source = VocabularyHead(kind.from_pretrained(config.init.student)) if kind is AutoModelForMaskedLM else None
    sizes = [[weight.shape for weight in one.transform.parameters()] if one else None for one in (source, head)]
    if source and sizes[0] == sizes[1]:
        head.transform.load_state_dict(source.transform.state_dict())
        head.bias.copy_(source.bias)  # the weight is the embeddings, which are initialised already


def _build_model(config: StudentConfig, base: Any) -> tuple[HuggingFaceModel, VocabularyHead | None]:
    values = config.hugging_face_config(base)
    if not config.needs_head:
        return AutoModel.from_config(values, dtype=torch.float32), None
    values.tie_word_embeddings = True
    head = VocabularyHead(AutoModelForMaskedLM.from_config(values, dtype=torch.float32))
    return head.model.base_model, head
