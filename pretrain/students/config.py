"""The configuration of a student: sizes, initial weights, objectives and optimizer."""

from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field, JsonValue, PositiveInt, model_validator
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoModelForPreTraining

from pretrain.elastic.config import ElasticConfig
from pretrain.elastic.slices import find_neurons
from pretrain.models.family import FamilyName, family_of
from pretrain.models.shape import EncoderShape, row_offset
from pretrain.objectives.registry import GeneralObjective
from pretrain.optimizer import OptimizerConfig, ScheduleConfig
from pretrain.quantization import QuantizationConfig
from pretrain.settings import Problems, Settings
from pretrain.students.init_config import InitConfig

_ANY_VOCABULARY = 1 << 16  # where only other sizes are asked for
_APART = "leave out one of them, or train one student from another (init.student)"
# What a student of another family takes over from its teacher, where both have BERT's layers and these compute alike
_COMPUTING = ("hidden_act", "layer_norm_eps", "initializer_range")
_TOKENS = ("bos_token_id", "eos_token_id")
_SIZES = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")
_UNDECLARED = {  # keys that a family's config or model reads and its config class does not declare
    "modernbert": ("global_attn_every_n_layers",),
    "gemma3_text": ("sliding_window_pattern",),
    "deberta-v2": ("position_buckets", "share_att_key", "norm_rel_ebd", "conv_kernel_size", "conv_act"),
}
_ANY_VOCABULARY = 1000  # where sizes alone are asked for
_NOT_INHERITED = (  # from the teacher's config: how it was saved, its own code, the labels of a task it was trained on
    "architectures", "dtype", "torch_dtype", "_name_or_path", "transformers_version", "auto_map",
    "id2label", "label2id", "num_labels", "problem_type", "finetuning_task",
)  # fmt: skip


class ArchitectureConfig(Settings):
    """The family of a student without a teacher or of another family; the rest is transformers' default for it."""

    model_type: FamilyName  # such as "bert", or "modernbert" for a student with rotary positions and sliding windows
    max_row_tokens: PositiveInt = 512
    options: dict[str, JsonValue] = Field(default_factory=dict)  # keys of the family's config, such as local_attention

    @model_validator(mode="after")
    def _check_options(self) -> "ArchitectureConfig":
        known = AutoConfig.for_model(self.model_type)
        for key in self.options:
            if key in (*_SIZES, "vocab_size", "max_position_embeddings", "pad_token_id"):
                raise ValueError(f"options.{key}: is set by another key of the student, or by its tokenizer")
            if not hasattr(known, key) and key not in _UNDECLARED.get(self.model_type, ()):
                raise ValueError(f"options.{key}: is no key of a {self.model_type} model's configuration")
        return self

    def build(self, vocab_size: int, pad_token_id: int, teacher: Any = None) -> Any:
        """Return the family's Hugging Face config for a tokenizer; a student's own sizes replace some of it.

        Args:
            teacher: the config of a teacher of another family, whose activation and the like are taken over.
        """
        config = AutoConfig.for_model(self.model_type, vocab_size=vocab_size, pad_token_id=pad_token_id)
        config.max_position_embeddings = self.max_row_tokens + row_offset(config)
        for key in [key for key in vars(config) if key.endswith("_token_id") and key != "pad_token_id"]:
            # The default is for another tokenizer. EuroBERT's config wants a number for its mask.
            setattr(config, key, pad_token_id if key == "mask_token_id" else None)
        alike = teacher and family_of(teacher.model_type).is_bert and family_of(self.model_type).is_bert
        for key in (*_TOKENS, *(_COMPUTING if alike else ())) if teacher else ():
            if hasattr(teacher, key):
                setattr(config, key, getattr(teacher, key))
        return config


class GridConfig(Settings):
    """Sizes of several students that are alike in all else: every number of layers with every width.

    They are named NAME-4l256d and so on. Not given, heads are 64 wide and feed-forward layers four times as wide as the
    student, as those of arXiv:1908.08962.
    """

    num_layers: Annotated[list[PositiveInt], Field(min_length=1)]
    hidden_size: Annotated[list[PositiveInt], Field(min_length=1)]


StudentName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class StudentConfig(Settings):
    """One student: its sizes, initial weights, objectives and optimizer. Its vocabulary is the teacher's."""

    name: StudentName
    num_layers: PositiveInt
    hidden_size: PositiveInt
    num_attention_heads: PositiveInt
    intermediate_size: PositiveInt
    grid: GridConfig | None = None  # in place of num_layers and hidden_size: a student of each size
    architecture: ArchitectureConfig | None = None  # null: the teacher's, if that is like BERT's; else required
    dropout_prob: Annotated[float, Field(ge=0, lt=1)] = 0.0  # in training; the published config keeps the family's
    init: InitConfig = InitConfig()
    elastic: ElasticConfig | None = None  # smaller students to train as parts of this one, and to publish beside it
    quantization: QuantizationConfig | None = None  # of the last part of the run, as launch/export.py rounds
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    objective: Annotated[list[GeneralObjective], Field(min_length=1)]

    def shape(self, teacher: EncoderShape) -> EncoderShape:
        """Return the student's sizes, given this teacher's."""
        if self.architecture:
            return EncoderShape.of(
                self.hugging_face_config(self.architecture.build(teacher.vocab_size, pad_token_id=0))
            )
        return replace(
            teacher,
            num_layers=self.num_layers,
            hidden_size=self.hidden_size,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=self.intermediate_size,
        )

    def hugging_face_config(self, base: Any) -> Any:
        """Return the student's Hugging Face config: that of its teacher or its architecture, with the student's sizes.

        In its last layer every token attends to all, whatever the family's pattern of sliding windows: relations and
        vectors are read there. Every head has keys and values of its own unless options say otherwise.
        """
        values = base.to_dict() | dict(zip(_SIZES, self._sizes, strict=True))
        own = {
            "head_dim": self.hidden_size // self.num_attention_heads,
            "num_key_value_heads": self.num_attention_heads,
        }
        values |= {key: size for key, size in own.items() if key in values}
        for key in (*_NOT_INHERITED, "layer_types"):
            values.pop(key, None)
        values |= self.architecture.options if self.architecture else {}
        config = AutoConfig.for_model(**values)
        kinds = getattr(config, "layer_types", None)
        if kinds and kinds[-1] != "full_attention" and "layer_types" not in values:
            values["layer_types"] = [*kinds[::-1][:-1], "full_attention"]
            config = AutoConfig.for_model(**values)
        return config

    @property
    def _sizes(self) -> tuple[int, ...]:
        return self.num_layers, self.hidden_size, self.num_attention_heads, self.intermediate_size

    @property
    def needs_head(self) -> bool:
        """Whether an objective trains a masked-language head of the student."""
        return any(one.needs_student_head for one in self.objective)

    def auto_class(self, model_type: str) -> Any:
        """Return transformers' class of an encoder of this family with the heads that are published."""
        joins = any(one.head_family == model_type for one in self.objective)
        # ElectraForPreTraining has no masked-language head; AlbertForPreTraining has one, which must not stay random.
        if joins and self.needs_head == (model_type == "albert"):
            return AutoModelForPreTraining
        return AutoModelForMaskedLM if self.needs_head else AutoModel

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
            return
        if teacher is None:
            yield from self._problems_alone()
            return
        if self.architecture is None and not teacher.family.is_bert:
            yield (
                "architecture",
                f"is required beside a teacher of family {teacher.model_type}, "
                f'for example {{"model_type": "bert"}} or {{"model_type": "{teacher.model_type}"}}',
            )
            return
        own = self.shape(teacher)
        if own.is_rotary and own.attention_size // own.num_attention_heads % 2:
            yield "num_attention_heads", "heads that are rotated by positions need an even width"
        yield from self.init.problems(teacher, self.shape(teacher))
        yield from self._sampling_problems()
        for index, objective in enumerate(self.objective):
            for key, message in objective.problems(teacher, self.shape(teacher)):
                yield f"objective.{index}.{key}", message
        yield from self._elastic_problems(teacher, own)

    def _elastic_problems(self, teacher: EncoderShape | None, own: EncoderShape) -> Problems:
        if self.elastic is None:
            return
        if self.quantization:
            yield (
                "quantization",
                "rounds one size alone; leave it out, and train a published size with it (init.student)",
            )
        yield from self.elastic.problems(teacher, own, self.objective)
        if self.elastic.feed_forward and self.architecture:  # BERT's own, without an architecture, are known
            try:
                find_neurons(self.hugging_face_config(self.architecture.build(own.vocab_size, pad_token_id=0)))
            except ValueError as error:
                yield "elastic.feed_forward", f"{error}; leave it out, and use depths"

    def _problems_alone(self) -> Problems:
        if self.architecture is None:
            yield "architecture", 'is required without a teacher, for example {"model_type": "bert"}'
        if self.init != InitConfig(embeddings="scratch"):
            yield "init", 'must be {"embeddings": "scratch", "layers": "scratch"}: there is no teacher to start from'
        for index, objective in enumerate(self.objective):
            if objective.needs_teacher:
                yield f"objective.{index}.type", f"{objective.type} needs a teacher; mlm works without one"
        yield from self._sampling_problems()
        if self.architecture:
            own = EncoderShape.of(self.hugging_face_config(self.architecture.build(_ANY_VOCABULARY, pad_token_id=0)))
            for index, objective in enumerate(self.objective):
                for key, message in () if objective.needs_teacher else objective.problems(own, own):
                    yield f"objective.{index}.{key}", message
            yield from self._elastic_problems(None, own)

    def _sampling_problems(self) -> Problems:
        """Yield which objectives cannot stand beside one whose samples the student reads in place of the text."""
        sampling = [index for index, one in enumerate(self.objective) if one.samples_tokens]
        if sampling and self.elastic:
            kind = self.objective[sampling[0]].type
            yield "elastic", f"{kind} trains a generator for one size; train the sizes as students of their own"
        for index, one in enumerate(self.objective) if sampling else ():
            name = f"objective.{sampling[0]} ({self.objective[sampling[0]].type})"
            if index == sampling[0]:
                continue
            if one.needs_masking:
                yield f"objective.{index}.type", f"{one.type} predicts masked tokens, which {name} replaces; {_APART}"
            elif one.needs_teacher:
                yield (
                    f"objective.{index}.type",
                    f"{one.type} compares what teacher and student make of one text, and with {name} they read "
                    f"different ones; {_APART}",
                )
