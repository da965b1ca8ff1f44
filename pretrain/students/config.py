"""The configuration of a student: sizes, initial weights, objectives and optimizer."""

from typing import Annotated, Any

from pydantic import Field, PositiveInt
from transformers import AutoConfig

from pretrain.models.encoder import EncoderShape, row_offset
from pretrain.models.family import FamilyName
from pretrain.objectives.registry import GeneralObjective
from pretrain.optimizer import OptimizerConfig, ScheduleConfig
from pretrain.settings import Problems, Settings
from pretrain.students.initialization import InitConfig


class ArchitectureConfig(Settings):
    """The family of a student that has no teacher; other settings are transformers' defaults for the family."""

    model_type: FamilyName
    max_row_tokens: PositiveInt = 512

    def build(self, vocab_size: int, pad_token_id: int) -> Any:
        """Return the family's Hugging Face config for a tokenizer; a student's own sizes replace some of it."""
        config = AutoConfig.for_model(self.model_type, vocab_size=vocab_size, pad_token_id=pad_token_id)
        config.max_position_embeddings = self.max_row_tokens + row_offset(config)
        return config


StudentName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class StudentConfig(Settings):
    """One student: its sizes, initial weights, objectives and optimizer. Family and vocabulary are the teacher's."""

    name: StudentName
    num_layers: PositiveInt
    hidden_size: PositiveInt
    num_attention_heads: PositiveInt
    intermediate_size: PositiveInt
    architecture: ArchitectureConfig | None = None  # only, and required, in a run without a teacher
    dropout_prob: Annotated[float, Field(ge=0, lt=1)] = 0.0  # in training; the published config keeps the family's
    init: InitConfig = InitConfig()
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    objective: Annotated[list[GeneralObjective], Field(min_length=1)]

    def shape(self, teacher: EncoderShape) -> EncoderShape:
        """Return the student's sizes, given this teacher's."""
        return EncoderShape(
            teacher.model_type,
            self.num_layers,
            self.hidden_size,
            self.num_attention_heads,
            self.intermediate_size,
            teacher.vocab_size,
            teacher.max_row_tokens,
            teacher.num_token_types,
            teacher.embedding_size,
        )

    @property
    def needs_head(self) -> bool:
        """Whether an objective trains a masked-language head of the student."""
        return any(one.needs_student_head for one in self.objective)

    @property
    def needs_masking(self) -> bool:
        """Whether an objective predicts masked tokens."""
        return any(one.needs_masking for one in self.objective)

    def problems(self, teacher: EncoderShape | None) -> Problems:
        """Yield (key, message) for everything that does not fit this teacher, or a run without one (None)."""
        if self.hidden_size % self.num_attention_heads:
            legal = [n for n in range(min(self.hidden_size, 64), 0, -1) if self.hidden_size % n == 0]
            yield (
                "num_attention_heads",
                f"must divide hidden_size ({self.hidden_size}), got {self.num_attention_heads}; "
                f"legal values: {', '.join(map(str, legal))}",
            )
        if teacher is None:
            yield from self._problems_alone()
            return
        if self.architecture:
            yield "architecture", "is the teacher's in a run with one: leave it out"
        yield from self.init.problems(teacher, self.shape(teacher))
        for index, objective in enumerate(self.objective):
            for key, message in objective.problems(teacher, self.shape(teacher)):
                yield f"objective.{index}.{key}", message

    def _problems_alone(self) -> Problems:
        if self.architecture is None:
            yield "architecture", 'is required without a teacher, for example {"model_type": "bert"}'
        if self.init != InitConfig(embeddings="scratch"):
            yield "init", 'must be {"embeddings": "scratch", "layers": "scratch"}: there is no teacher to start from'
        for index, objective in enumerate(self.objective):
            if objective.needs_teacher:
                yield f"objective.{index}.type", f"{objective.type} needs a teacher; mlm works without one"
