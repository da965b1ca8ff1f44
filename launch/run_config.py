"""The configuration of a run: one strict JSON file, `--set` overrides checked as strictly, all errors at once."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, NonNegativeFloat, NonNegativeInt, PositiveInt, ValidationError, model_validator

from corpus.manifest import OnFault
from corpus.masking import MaskingSettings
from corpus.order import NUM_LANES
from corpus.rows import RowKind
from corpus.settings import unknown_key
from launch.probe_config import ProbeConfig
from pretrain.deepspeed_config import DeepSpeedConfig
from pretrain.encoder import EncoderShape
from pretrain.settings import Settings
from pretrain.student import StudentConfig
from pretrain.teacher import TeacherConfig
from pretrain.trainer import TrainingConfig

# May differ between a run and its resumption; everything else makes another run. "*" stands for any keys.
MAY_CHANGE = ("about", "probe", "corpus.manifest", "corpus.cache_folder", "corpus.cache_gigabytes", "corpus.on_fault",
              "teacher.path", "teacher.dtype", "training.log_every_steps", "training.save_every_steps",
              "training.keep_checkpoints", "training.collective_timeout_seconds", "training.data_timeout_seconds",
              "training.on_slow_step", "training.max_skipped_in_a_row", "deepspeed.train_micro_batch_size_per_gpu",
              "deepspeed.torch_autocast", "deepspeed.zero_optimization.stage", "*.kernel")  # fmt: skip

Config = TypeVar("Config", bound=BaseModel)


class CorpusConfig(Settings):
    """Which shards, cut into rows of how many tokens, in the order of which seed."""

    manifest: str
    row_tokens: Annotated[int, Field(ge=8)]
    seed: NonNegativeInt = 17
    weights: dict[str, NonNegativeFloat] = Field(default_factory=dict)  # of sources; 1 for the others
    rows: RowKind = "packed"  # or TinyBERT's pairs of consecutive text, CLS A SEP B SEP
    attend_within_documents: bool = False  # documents packed in one row do not see each other
    masking: MaskingSettings | None = None  # for objectives that predict masked tokens
    num_lanes: PositiveInt = NUM_LANES  # ranks that divide it read their share of bytes, others more: docs/scale.md
    on_fault: OnFault = "stop"  # or "skip" the rows of blocks whose bytes have changed or are lost
    cache_folder: str | None = None  # on this host's disk, for a manifest behind a URL
    cache_gigabytes: Annotated[float, Field(gt=0)] = 50.0


class RunConfig(Settings):
    """One run: a corpus, a frozen teacher or none, one or several students."""

    about: str = ""
    corpus: CorpusConfig
    teacher: TeacherConfig | None  # null: students learn from the text alone
    students: Annotated[list[StudentConfig], Field(min_length=1)]
    training: TrainingConfig
    deepspeed: DeepSpeedConfig
    probe: ProbeConfig | None = None  # scores of the students while they train

    @model_validator(mode="after")
    def _probe_has_what_it_needs(self) -> "RunConfig":
        if self.probe and self.probe.heldout and self.teacher is None:
            raise ValueError("probe.heldout: relations are compared with a teacher's, and there is none; leave it out")
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> "RunConfig":
        names = [student.name for student in self.students]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"students: names must differ, got {', '.join(twice)} more than once")
        return self

    def length(self, rows_per_epoch: int) -> str:
        """How long an epoch is, and how many of them the run."""
        rows, steps = self.deepspeed.train_batch_size, self.training.total_steps
        epoch = f"{rows_per_epoch:,} rows of {self.corpus.row_tokens} tokens, {rows_per_epoch / rows:,.1f} steps"
        return f"an epoch is {epoch} of {rows} rows; its {steps:,} steps are {steps * rows / rows_per_epoch:.2f} epochs"

    @property
    def needs_teacher_head(self) -> bool:
        """Whether the teacher must have a masked-language head."""
        return any(one.needs_teacher_head for student in self.students for one in student.vocabulary_objectives)

    def check(self, teacher: EncoderShape | None) -> None:
        """ValueError listing everything that cannot work with this teacher, or without one."""
        problems = [
            f"students.{index}.{key}: {message}"
            for index, student in enumerate(self.students)
            for key, message in student.problems(teacher)
        ]
        problems += self._masking_problems()
        owners = {"the teacher": teacher} | {student.name: student.architecture for student in self.students}
        for owner, limits in owners.items():
            if limits and self.corpus.row_tokens > limits.max_row_tokens:
                most = limits.max_row_tokens
                problems.append(f"corpus.row_tokens: {owner} has {most} positions, got {self.corpus.row_tokens}")
            if limits and self.probe and self.probe.task and self.probe.task.row_tokens > limits.max_row_tokens:
                most, wanted = limits.max_row_tokens, self.probe.task.row_tokens
                problems.append(f"probe.task.row_tokens: {owner} has {most} positions, got {wanted}")
        if teacher and self.corpus.rows == "pairs" and teacher.num_token_types < 2:
            problems.append("corpus.rows: the teacher has one token type, so it cannot tell the texts of pairs apart")
        if problems:
            raise ValueError("\n".join(problems))

    def _masking_problems(self) -> Iterator[str]:
        for index, student in enumerate(self.students):
            wanting = [one for one in student.vocabulary_objectives if one.needs_labels]
            if wanting and not self.corpus.masking:
                yield f'corpus.masking: students.{index} predicts masked tokens; give it, for example {{"prob": 0.15}}'
            if self.corpus.masking and not wanting:
                yield (
                    f"corpus.masking: students.{index} has no objective that predicts masked tokens, and would only "
                    "see text with holes; give it one (mlm, distilbert), a run of its own, or leave masking out"
                )


@contextmanager
def said_of(key: str) -> Iterator[None]:
    """What is refused inside is said to be of this key of the configuration."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


def read_run_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Decode the config of a general distillation run."""
    return read_strictly(RunConfig, path, overrides)


def read_strictly(model: type[Config], path: Path, overrides: Sequence[str] = ()) -> Config:
    """Decode a config file with `dotted.key=value` overrides.

    Raises ValueError with every problem on a line of its own: path, what was wanted, what came.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    for override in overrides:
        _override(values, override)
    try:
        return model.model_validate_json(json.dumps(values))
    except ValidationError as error:
        lines = [f"{path}: {error.error_count()} problem(s)", *_explain(error, values, model)]
        raise ValueError("\n".join(lines)) from error


def _override(values: Any, text: str) -> None:
    dotted, equals, literal = text.partition("=")
    if not equals or not dotted:
        raise ValueError(f"--set {text}: wanted dotted.key=value, for example students.0.num_layers=2")
    *parents, last = dotted.split(".")
    for key in parents:
        values = _member(values, key, text)
    try:
        value = json.loads(literal)
    except (ValueError, RecursionError):
        value = literal  # a plain word needs no quotes
    if isinstance(values, list):
        _member(values, last, text)
        values[int(last)] = value
    elif isinstance(values, dict):
        values[last] = value
    else:
        raise ValueError(f"--set {text}: {'.'.join(parents)} holds no keys")


def _member(values: Any, key: str, text: str) -> Any:
    if isinstance(values, list):
        if key not in map(str, range(len(values))):
            raise ValueError(f"--set {text}: {key} is not an index of a list of {len(values)}")
        return values[int(key)]
    if isinstance(values, dict):
        return values.setdefault(key, {})
    raise ValueError(f"--set {text}: nothing lies below {key}")


def _explain(error: ValidationError, values: Any, model: type[BaseModel]) -> Iterator[str]:
    for problem in error.errors(include_url=False):
        path = ".".join(str(part) for part in _path_in(values, problem["loc"], problem["type"] == "missing"))
        if problem["type"] == "extra_forbidden":
            yield f"{path}: {unknown_key(str(problem['loc'][-1]), model)}"
        elif problem["type"] == "missing":
            yield f"{path}: required, and not given"
        else:
            got = "" if not path else f", got {json.dumps(problem['input'], ensure_ascii=False, default=str)[:80]}"
            yield f"{path}: {problem['msg']}{got}".removeprefix(": ")


def _path_in(values: Any, location: tuple[Any, ...], missing: bool) -> Iterator[int | str]:
    """The keys of a location that stand in the file; pydantic puts the tags of unions between them."""
    for index, part in enumerate(location):
        members = values if isinstance(values, dict) else range(len(values)) if isinstance(values, list) else ()
        if part in members:
            values = values[part]
            yield part
        elif missing and index == len(location) - 1:
            yield part


def changed_keys(
    old: dict[Any, Any], new: dict[Any, Any], prefix: str = "", may_change: Sequence[str] = MAY_CHANGE
) -> list[str]:
    """Dotted keys, as --set has them, whose values differ between two resolved configs, but for those that may change.

    A list that has become longer or shorter is one key.
    """
    changed = []
    for key in sorted(old.keys() | new.keys()):
        path, before, after = f"{prefix}{key}", old.get(key), new.get(key)
        if before == after or any(fnmatchcase(path, one) for one in may_change):
            continue
        if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
            before, after = dict(enumerate(before)), dict(enumerate(after))
        if isinstance(before, dict) and isinstance(after, dict):
            changed += changed_keys(before, after, f"{path}.", may_change)
        else:
            changed.append(path)
    return changed
