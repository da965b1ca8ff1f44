"""A student: its sizes, where its weights start, its encoder and its objectives in one module for one engine."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

from pretrain.architecture import ArchitectureConfig
from pretrain.encoder import Encoder, EncoderShape, Features, HuggingFaceModel, union
from pretrain.objective import Objective, Problems
from pretrain.objectives import ObjectiveConfig
from pretrain.optimizer import OptimizerConfig, ScheduleConfig
from pretrain.teacher import TeacherFunction
from pretrain.vocabulary_head import VocabularyHead
from pretrain.vocabulary_objectives import VocabularyConfig

StudentName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class InitConfig(BaseModel):
    """Where the student's weights start.

    embeddings: "teacher" takes the teacher's, projected on their principal components where the widths differ.
    layers: "scratch", or the teacher layers to copy, one for each student layer (equal widths only).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    embeddings: Literal["teacher", "scratch"] = "teacher"
    layers: Literal["scratch"] | list[PositiveInt] = "scratch"


class StudentConfig(BaseModel):
    """One student: its sizes (the family, vocabulary and positions are the teacher's) and how it is trained.

    `architecture` stands in for a teacher in a run that has none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: StudentName
    num_layers: PositiveInt
    hidden_size: PositiveInt
    num_attention_heads: PositiveInt
    intermediate_size: PositiveInt
    architecture: ArchitectureConfig | None = None
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

    @property
    def vocabulary_objectives(self) -> list[VocabularyConfig]:
        """Those that give the student a masked-language head."""
        return [objective for objective in self.objective if isinstance(objective, VocabularyConfig)]

    def problems(self, teacher: EncoderShape | None) -> Problems:
        """(key, message) of everything that cannot work with this teacher, or without one."""
        if self.hidden_size % self.num_attention_heads:
            legal = [n for n in range(self.hidden_size, 0, -1) if self.hidden_size % n == 0 and n <= 64]
            yield (
                "num_attention_heads",
                f"must divide hidden_size ({self.hidden_size}), got {self.num_attention_heads}; "
                f"legal values: {', '.join(map(str, legal))}",
            )
        if teacher is None:
            yield from self._problems_alone()
            return
        if self.architecture:
            yield "architecture", "is the teacher's where there is one: leave it out"
        if isinstance(self.init.layers, list):
            yield from self._layer_copy_problems(self.init.layers, teacher)
        for index, objective in enumerate(self.objective):
            for key, message in objective.problems(teacher, self.shape(teacher)):
                yield f"objective.{index}.{key}", message

    def _problems_alone(self) -> Problems:
        if self.architecture is None:
            yield "architecture", 'is needed where there is no teacher, for example {"model_type": "bert"}'
        if self.init != InitConfig(embeddings="scratch"):
            yield "init", 'there is no teacher to start from; wants {"embeddings": "scratch", "layers": "scratch"}'
        for index, objective in enumerate(self.objective):
            if objective.type != "mlm":
                yield f"objective.{index}.type", f"{objective.type} needs a teacher; without one there is mlm"

    def _layer_copy_problems(self, layers: list[int], teacher: EncoderShape) -> Problems:
        if teacher.model_type == "albert":
            yield "init.layers", "an ALBERT teacher shares its layers: there is none to choose"
        if len(layers) != self.num_layers:
            yield "init.layers", f"wants {self.num_layers} teacher layers, got {len(layers)}"
        if max(layers, default=0) > teacher.num_layers:
            yield "init.layers", f"the teacher has {teacher.num_layers} layers, got {max(layers)}"
        for key in ("hidden_size", "num_attention_heads", "intermediate_size"):
            if getattr(self, key) != getattr(teacher, key):
                yield (
                    "init.layers",
                    f"copies need the teacher's {key} {getattr(teacher, key)}, got {getattr(self, key)}",
                )


class Student(nn.Module):
    """Encoder and objectives; `forward` gives the weighted loss and every unweighted term, detached, by name.

    `head` is there where an objective needs it; it is published with the encoder.
    """

    def __init__(
        self,
        config: StudentConfig,
        model: HuggingFaceModel,
        teacher: EncoderShape,
        head: VocabularyHead | None = None,
    ) -> None:
        super().__init__()
        self.head = head
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

    @property
    def published(self) -> HuggingFaceModel:
        """The model as it is saved: the encoder, with its masked-language head where it has one."""
        return self.head.model if self.head else self.encoder.model

    def forward(self, batch: Mapping[str, Tensor], teacher: Features) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one micro-batch, float32 scalar, and its terms."""
        features: Features = self.encoder(batch)
        features.head = self.head
        total, terms = torch.zeros((), device=batch["input_ids"].device), {}
        for objective in self.objectives:
            assert isinstance(objective, Objective)
            parts = objective(teacher, features, batch)
            total = total + objective.total(parts, self.progress)
            terms.update({name: value.detach() for name, value in parts.items()})
        return total, {"loss": total.detach(), **terms}

    def freeze_unreached(self, teacher: TeacherFunction) -> list[str]:
        """Freeze the parameters that no objective reaches and return their names within the published model.

        One backward pass on a few tokens tells, for any architecture. Unreached parameters would otherwise get zero
        gradients from DeepSpeed, and weight decay would shrink them.
        """
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
    teacher_head: VocabularyHead | None = None,
    base: Any = None,
) -> Student:
    """A student of the teacher's family with its weights where `config.init` says; the same bits for the same seed.

    Without a teacher `base`, a Hugging Face config, says all but the sizes.

    A masked-language head starts as the teacher's where there is one of the same width and embeddings are the
    teacher's too.
    """
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        base = base if teacher is None else teacher.config
        model, head = _build_model(config, base)
        student = Student(config, model, EncoderShape.of(base), head)
        if teacher is not None:
            _start_from(teacher, teacher_head, student, config)
        return student


def _start_from(
    teacher: HuggingFaceModel, teacher_head: VocabularyHead | None, student: Student, config: StudentConfig
) -> None:
    model, head = student.encoder.model, student.head
    if config.init.embeddings == "teacher":
        basis = _take_embeddings(model, teacher)
        if basis.shape == (teacher.config.hidden_size, config.hidden_size):  # not where embeddings are factorised
            for objective in student.objectives:
                assert isinstance(objective, Objective)
                objective.start_from(basis)
        if head and teacher_head and config.hidden_size == teacher.config.hidden_size:
            head.load_state_dict(teacher_head.state_dict())
    if isinstance(config.init.layers, list):
        _copy_layers(model, teacher, config.init.layers)


def _build_model(config: StudentConfig, base: Any) -> tuple[HuggingFaceModel, VocabularyHead | None]:
    values = student_model_config(config, base)
    if not config.vocabulary_objectives:
        return AutoModel.from_config(values, dtype=torch.float32), None
    values.tie_word_embeddings = True
    head = VocabularyHead(AutoModelForMaskedLM.from_config(values, dtype=torch.float32))
    return head.model.base_model, head


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


@torch.no_grad()
def _take_embeddings(model: HuggingFaceModel, teacher: HuggingFaceModel) -> Tensor:
    """Word, position and type embeddings of the teacher, in the student's width; returns the map [D, width].

    A narrower student takes their coordinates on the principal components of the word embeddings, a wider one the
    same vectors rotated into its space. With equal widths they are copied, normalisation included; otherwise that
    starts at the identity, since a rotation and an elementwise gain do not commute.
    """
    source, target = teacher.embeddings, model.embeddings
    basis = embedding_basis(source.word_embeddings.weight, target.word_embeddings.embedding_dim)
    same = basis.shape[0] == basis.shape[1]
    for name, table in target.named_children():
        if isinstance(table, nn.Embedding):
            weight = getattr(source, name).weight
            table.weight.copy_(weight if same else weight @ basis)
        elif same and isinstance(table, nn.LayerNorm):
            table.load_state_dict(getattr(source, name).state_dict())
    return basis


def embedding_basis(vectors: Tensor, width: int) -> Tensor:
    """Map [D, width] from vectors [N, D]: principal components, a random rotation where wider, the identity."""
    dimensions = vectors.shape[1]
    if width == dimensions:
        return torch.eye(width)
    return principal_components(vectors, width) if width < dimensions else random_rotation(dimensions, width)


def principal_components(vectors: Tensor, num_components: int) -> Tensor:
    """Orthonormal basis [D, num_components] of the directions of largest variance of vectors [N, D].

    Raises ValueError when more components are asked for than there are dimensions.
    """
    if num_components > vectors.shape[1]:
        raise ValueError(f"embeddings of width {vectors.shape[1]} have no {num_components} principal components")
    centred = vectors.double() - vectors.double().mean(0)
    _, directions = torch.linalg.eigh(centred.T @ centred)  # eigenvalues ascend
    directions = directions[:, -num_components:].flip(1)
    # The sign of an eigenvector is arbitrary: fix it, or two machines would start from different students.
    signs = directions.gather(0, directions.abs().argmax(0, keepdim=True)).sign()
    return (directions * signs).to(vectors.dtype)


def random_rotation(width: int, wider: int) -> Tensor:
    """Random [width, wider] with orthonormal rows: it keeps every length and angle."""
    return torch.linalg.qr(torch.randn(wider, width, dtype=torch.float64)).Q.T.float()


@torch.no_grad()
def _copy_layers(model: HuggingFaceModel, teacher: HuggingFaceModel, layers: list[int]) -> None:
    for layer, number in zip(model.encoder.layer, layers, strict=True):
        layer.load_state_dict(teacher.encoder.layer[number - 1].state_dict())
