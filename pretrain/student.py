"""A student: its sizes, where its weights start, its encoder and its objectives in one module for one engine."""

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from pretrain.encoder import Encoder, EncoderShape, Features, HuggingFaceModel, union
from pretrain.initialization import InitConfig, initialize
from pretrain.objective import Objective, Problems
from pretrain.objectives import ObjectiveConfig
from pretrain.optimizer import OptimizerConfig, ScheduleConfig

StudentName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class StudentConfig(BaseModel):
    """One student: its sizes (the family, vocabulary and positions are the teacher's) and how it is trained."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: StudentName
    num_layers: PositiveInt
    hidden_size: PositiveInt
    num_attention_heads: PositiveInt
    intermediate_size: PositiveInt
    dropout_prob: Annotated[float, Field(ge=0, lt=1)] = 0.0  # while distilling; the published config keeps the family's
    init: InitConfig = InitConfig()
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    objective: Annotated[list[ObjectiveConfig], Field(min_length=1)]

    def shape(self, teacher: EncoderShape) -> EncoderShape:
        """The student's sizes beside this teacher."""
        return EncoderShape(
            teacher.model_type,
            self.num_layers,
            self.hidden_size,
            self.num_attention_heads,
            self.intermediate_size,
            teacher.vocab_size,
            teacher.max_row_tokens,
            teacher.num_token_types,
        )

    def problems(self, teacher: EncoderShape) -> Problems:
        """(key, message) of everything that cannot work with this teacher."""
        if self.hidden_size % self.num_attention_heads:
            legal = [n for n in range(self.hidden_size, 0, -1) if self.hidden_size % n == 0 and n <= 64]
            yield (
                "num_attention_heads",
                f"must divide hidden_size ({self.hidden_size}), got {self.num_attention_heads}; "
                f"legal values: {', '.join(map(str, legal))}",
            )
        yield from self.init.problems(teacher, self.shape(teacher))
        for index, objective in enumerate(self.objective):
            for key, message in objective.problems(teacher, self.shape(teacher)):
                yield f"objective.{index}.{key}", message


class Student(nn.Module):
    """Encoder and objectives; `forward` gives the weighted loss and every unweighted term, detached, by name."""

    def __init__(self, config: StudentConfig, model: HuggingFaceModel, teacher: EncoderShape) -> None:
        super().__init__()
        shape = config.shape(teacher)
        self.name = config.name
        self.progress = 0.0  # share of the run's steps that are made: schedules of weights want to know
        objectives: list[Objective] = [objective.build(teacher, shape) for objective in config.objective]
        self.objectives = nn.ModuleList(objectives)
        self.encoder = Encoder(model, union(objective.student_reads for objective in objectives))
        self.teacher_reads = union(objective.teacher_reads for objective in objectives)
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = config.dropout_prob

    def forward(self, batch: Mapping[str, Tensor], teacher: Features) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one micro-batch, float32 scalar, and its terms."""
        features = self.encoder(batch)
        total, terms = torch.zeros((), device=batch["input_ids"].device), {}
        for index, objective in enumerate(self.objectives):
            assert isinstance(objective, Objective)
            parts = objective(teacher, features, batch)
            total = total + objective.total(parts, self.progress)
            for name, value in parts.items():
                terms[f"{name}/{index}" if name in terms else name] = value.detach()
        return total, {"loss": total.detach(), **terms}

    def freeze_unreached(self, teacher: nn.Module) -> list[str]:
        """Freeze the parameters that no objective reaches and return their names within the published model.

        One backward pass on a few tokens tells, for any architecture. Unreached parameters would otherwise get zero
        gradients from DeepSpeed, and weight decay would shrink them.
        """
        ids = torch.arange(16, device=next(teacher.parameters()).device).view(2, 8)
        batch = {"input_ids": ids % self.encoder.shape.vocab_size, "token_type_ids": torch.zeros_like(ids)}
        self(batch, teacher(batch))[0].backward()
        for parameter in self.parameters():
            parameter.requires_grad_(parameter.grad is not None)
            parameter.grad = None
        return [name for name, parameter in self.encoder.model.named_parameters() if not parameter.requires_grad]


def build_student(
    config: StudentConfig, teacher: HuggingFaceModel, seed: int, sample: Mapping[str, Tensor] | None = None
) -> Student:
    """A student of the teacher's family with its weights where `config.init` says; the same bits for the same seed.

    `sample`, a batch of text [B, L], is needed where `config.init` projects layers.
    """
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        model = AutoModel.from_config(student_model_config(config, teacher.config), dtype=torch.float32)
        student = Student(config, model, EncoderShape.of(teacher.config))
        basis = initialize(model, teacher, config.init, sample)
        if basis is not None:
            for objective in student.objectives:
                assert isinstance(objective, Objective)
                objective.start_from(basis)
        return student


def student_model_config(config: StudentConfig, teacher: Any) -> Any:
    """The Hugging Face config: the teacher's with the student's sizes."""
    values = teacher.to_dict() | {
        "num_hidden_layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "num_attention_heads": config.num_attention_heads,
        "intermediate_size": config.intermediate_size,
    }
    for key in ("architectures", "dtype", "torch_dtype", "_name_or_path", "transformers_version"):
        values.pop(key, None)
    return AutoConfig.for_model(**values)
