"""A scaling law of students: the held-out loss and the kept score to expect after so many tokens, with an error.

    L(N, T) = E + A / N^a + B / T^b                 (Hoffmann et al., arXiv:2203.15556, equation 2)
    kept(L) = 1 / (1 + exp(d log L - c)), d >= 0    the student's score as a share of its teacher's

N: parameters of the student's layers, without embeddings. T: tokens that it has read.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field, JsonValue, PositiveInt

from launch.command_line.config_file import changed_keys, read_strictly
from launch.distillation.config import RunConfig
from pretrain.models.shape import EncoderShape
from pretrain.settings import Settings, Share
from pretrain.students.config import StudentConfig

MOST_TIMES_SIZE, MOST_TIMES_TOKENS = 2.0, 4.0  # beyond the largest, or below the smallest, that a law was fitted on
_OF_A_SIZE = {"name", "grid", "num_layers", "hidden_size", "intermediate_size", "num_attention_heads"}
_OF_A_PLACE = {"manifest", "cache_folder", "cache_gigabytes", "on_fault", "num_lanes", "seed"}
# Keys without which a loss is another quantity; other differences are only said
_ESSENTIAL = ("corpus.row_tokens", "corpus.rows", "corpus.masking", "corpus.attend_within_documents",
              "student.objective", "student.architecture")  # fmt: skip
Positive = Annotated[float, Field(gt=0)]


class Curve(Settings):
    """One fit: E, A, a, B, b of the loss, and c, d of the kept score, or None where no score was measured."""

    floor: Positive  # E
    size: tuple[Positive, Annotated[float, Field(ge=0)]]  # A, a
    tokens: tuple[Positive, Annotated[float, Field(ge=0)]]  # B, b
    kept: tuple[float, Annotated[float, Field(ge=0)]] | None = None  # c, d

    def loss(self, parameters: float, tokens: float) -> float:
        """Return the held-out loss of a student of so many parameters after so many tokens."""
        terms = ((self.size, parameters), (self.tokens, tokens))
        return self.floor + sum(factor * math.exp(-power * math.log(value)) for (factor, power), value in terms)

    def kept_score(self, loss: float) -> float:
        """Return the share of the teacher's score at a loss."""
        assert self.kept
        return (1 + math.tanh((self.kept[0] - self.kept[1] * math.log(loss)) / 2)) / 2  # the same, without overflow


class TeacherSizes(Settings):
    """The sizes by which a teacher is recognised before its weights are read."""

    model_type: str
    num_layers: PositiveInt
    hidden_size: PositiveInt
    num_attention_heads: PositiveInt
    intermediate_size: PositiveInt
    vocab_size: PositiveInt

    @classmethod
    def of(cls, teacher: EncoderShape) -> "TeacherSizes":
        """Return those of a teacher."""
        return cls(**{name: getattr(teacher, name) for name in cls.model_fields})

    def __str__(self) -> str:
        return f"{self.model_type} {self.num_layers} x {self.hidden_size}, {self.vocab_size:,} pieces"


class Setting(Settings):
    """What all runs of a law have in common, besides sizes and lengths."""

    teacher: str  # its path when the runs were made
    teacher_fingerprint: str  # of its weights
    teacher_sizes: TeacherSizes
    corpus: str  # fingerprint
    heldout: str  # fingerprint
    heldout_rows: PositiveInt
    relation_heads: PositiveInt  # R of the held-out loss
    task: str | None = None  # of the score, accuracy by neighbours
    teacher_score: Share | None = None
    texts: str | None = None  # fingerprint of the score's texts
    config: dict[str, JsonValue]  # see `common_config`


class Estimate(NamedTuple):
    """A value and its standard error."""

    value: float
    error: float


class Law(Settings):
    """A fitted law, what it was fitted on, and its errors."""

    about: str = ""
    setting: Setting
    num_points: PositiveInt
    parameters: tuple[PositiveInt, PositiveInt]  # of the smallest and the largest student
    tokens: tuple[PositiveInt, PositiveInt]  # of the shortest and the longest run
    curve: Curve  # fitted on all points
    without: Annotated[list[Curve], Field(min_length=2)]  # on all but one, for every point
    loss_error: Share  # root mean square of log(loss) left out, minus log(loss) predicted from the others
    kept_error: Share | None = None  # the same of the kept score

    def loss(self, parameters: float, tokens: float) -> Estimate:
        """Return the loss to expect: its error is that of the fit, by the jackknife, and that of a single run."""
        value = self.curve.loss(parameters, tokens)
        spread = self._jackknife([math.log(one.loss(parameters, tokens)) for one in self.without])
        return Estimate(value, value * math.hypot(spread, self.loss_error))

    def kept_score(self, parameters: float, tokens: float) -> Estimate | None:
        """Return the share of the teacher's score to expect, None if no scores were measured."""
        if self.curve.kept is None or self.kept_error is None:
            return None
        value = self.curve.kept_score(self.curve.loss(parameters, tokens))
        spread = self._jackknife([one.kept_score(one.loss(parameters, tokens)) for one in self.without if one.kept])
        return Estimate(value, math.hypot(spread, self.kept_error))

    def _jackknife(self, values: Sequence[float]) -> float:
        mean = sum(values) / len(values)
        return math.sqrt((len(values) - 1) / len(values) * sum((value - mean) ** 2 for value in values))

    def differences(self, config: RunConfig, student: StudentConfig, teacher: EncoderShape | None) -> "Differences":
        """Return what a configuration has that the law's runs had not: what forbids a prediction, and the rest."""
        sizes = TeacherSizes.of(teacher) if teacher else None
        if sizes != self.setting.teacher_sizes:
            return Differences([f"another teacher ({sizes or 'none'}; the law's is {self.setting.teacher_sizes})"], [])
        before, now = self.setting.config, common_config(config, student)
        changed = changed_keys(before, now)
        essential = [key for key in changed if any(_is_within(key, one) or _is_within(one, key) for one in _ESSENTIAL)]
        forbidden = [f"{key} is {_value(now, key)}, was {_value(before, key)}" for key in essential]
        return Differences(forbidden, [key for key in changed if key not in essential])

    def outside(self, parameters: float, tokens: float) -> Iterator[str]:
        """Yield why a size or a length is too far from those that the law was fitted on."""
        for name, value, (least, most), times in (
            ("parameters in layers", parameters, self.parameters, MOST_TIMES_SIZE),
            ("tokens", tokens, self.tokens, MOST_TIMES_TOKENS),
        ):
            if not least / times <= value <= most * times:
                yield f"{value:,.0f} {name}; fitted on {least:,} to {most:,}, trusted to {times:g} times beyond"

    def extrapolates(self, parameters: float, tokens: float) -> bool:
        """Return whether a size or a length lies beyond the runs."""
        pairs = ((parameters, self.parameters), (tokens, self.tokens))
        return any(not least <= value <= most for value, (least, most) in pairs)


class Differences(NamedTuple):
    """What forbids a prediction, in words, and the keys of what may change it."""

    forbidding: list[str]
    others: list[str]


def read_law(path: Path) -> Law:
    """Read a law. Raise ValueError naming the file and every problem."""
    return read_strictly(Law, path)


def common_config(config: RunConfig, student: StudentConfig) -> dict[str, JsonValue]:
    """Return the part of a configuration, as JSON values, that the runs of a law must share."""
    values: dict[str, Any] = config.model_dump(mode="json")
    own: dict[str, Any] = student.model_dump(mode="json", exclude=_OF_A_SIZE)
    for objective in own["objective"]:
        objective.pop("kernel", None)  # another way to compute the same loss
    corpus = {key: value for key, value in values["corpus"].items() if key not in _OF_A_PLACE}
    deepspeed = {key: values["deepspeed"][key] for key in ("train_batch_size", "gradient_clipping")}
    teacher = {key: values["teacher"][key] for key in ("prompt", "prompts_students")} if config.teacher else {}
    return {"teacher": teacher, "corpus": corpus, "student": own, "deepspeed": deepspeed}


def _is_within(key: str, section: str) -> bool:
    return f"{key}.".startswith(f"{section}.")


def _value(values: Any, key: str) -> str:
    """Return the value at a dotted key as short text."""
    for part in key.split("."):
        values = values[int(part)] if isinstance(values, list) else values.get(part) if values else None
    text = str(values)
    return text if len(text) <= 80 else f"{text[:79]}…"
