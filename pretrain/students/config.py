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

# What another family's student takes over from its teacher: its layers compute as the teacher's do
_TAKEN_OVER = ("hidden_act", "layer_norm_eps", "initializer_range", "bos_token_id", "eos_token_id")


class ArchitectureConfig(Settings):
    """The family of a student without a teacher or of another family; the rest is transformers' default for it."""

    model_type: FamilyName
    max_row_tokens: PositiveInt = 512

    def build(self, vocab_size: int, pad_token_id: int, teacher: Any = None) -> Any:
        """Return the family's Hugging Face config for a tokenizer; a student's own sizes replace some of it.

        Args:
            teacher: the config of a teacher of another family, whose activation and the like are taken over.
        """
        config = AutoConfig.for_model(self.model_type, vocab_size=vocab_size, pad_token_id=pad_token_id)
        config.max_position_embeddings = self.max_row_tokens + row_offset(config)
        for key in _TAKEN_OVER if teacher else ():
            if hasattr(teacher, key):
                setattr(config, key, getattr(teacher, key))
        return config


StudentName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class StudentConfig(Settings):
    """One student: its sizes, initial weights, objectives and optimizer. Its vocabulary is the teacher's."""

    name: StudentName
    num_layers: PositiveInt
    hidden_size: PositiveInt
    num_attention_heads: PositiveInt
    intermediate_size: PositiveInt
    architecture: ArchitectureConfig | None = None  # null: the teacher's; required in a run without one
    dropout_prob: Annotated[float, Field(ge=0, lt=1)] = 0.0  # in training; the published config keeps the family's
    init: InitConfig = InitConfig()
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    objective: Annotated[list[GeneralObjective], Field(min_length=1)]

    def shape(self, teacher: EncoderShape) -> EncoderShape:
        """Return the student's sizes, given this teacher's."""
        base = teacher
        if self.architecture:
            base = EncoderShape.of(self.architecture.build(teacher.vocab_size, pad_token_id=0))
        return EncoderShape(
            base.model_type,
            self.num_layers,
            self.hidden_size,
            self.num_attention_heads,
            self.intermediate_size,
            teacher.vocab_size,
            base.max_row_tokens,
            base.num_token_types,
            base.embedding_size,
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
