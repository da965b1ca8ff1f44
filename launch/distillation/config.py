"""The configuration of a run: one strict JSON file, `--set` overrides checked as strictly, all errors at once."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from corpus.rows.masking import MaskingSettings
from corpus.rows.order import NUM_LANES
from corpus.rows.packing import RowKind
from corpus.shards.manifest import OnFault
from launch.command_line.config_file import read_strictly
from launch.distillation.probe_config import ProbeConfig
from pretrain.engines.deepspeed_config import DeepSpeedConfig
from pretrain.models.encoder import EncoderShape
from pretrain.models.teacher import TeacherConfig
from pretrain.settings import Settings
from pretrain.students.config import StudentConfig
from pretrain.training.trainer import TrainingConfig

# May differ between a run and its resumption; everything else makes another run. "*" stands for any keys.
MAY_CHANGE = ("about", "probe", "corpus.manifest", "corpus.cache_folder", "corpus.cache_gigabytes", "corpus.on_fault",
              "teacher.path", "teacher.dtype", "training.log_every_steps", "training.save_every_steps",
              "training.keep_checkpoints", "training.collective_timeout_seconds", "training.data_timeout_seconds",
              "training.on_slow_step", "training.max_skipped_in_a_row", "deepspeed.train_micro_batch_size_per_gpu",
              "deepspeed.torch_autocast", "deepspeed.zero_optimization.stage", "*.kernel")  # fmt: skip


class CorpusConfig(Settings):
    """Which shards, cut into rows of how many tokens, in the order of which seed."""

    manifest: str
    row_tokens: Annotated[int, Field(ge=8)]
    seed: NonNegativeInt = 17
    weights: dict[str, NonNegativeFloat] = Field(default_factory=dict)  # of sources; 1 for the others
    rows: RowKind = "packed"  # or TinyBERT's pairs of consecutive text, CLS A SEP B SEP
    attend_within_documents: bool = False  # documents packed in one row do not see each other
    masking: MaskingSettings | None = None  # for objectives that predict masked tokens
    num_lanes: PositiveInt = NUM_LANES  # ranks that divide it read their share of bytes, others more: docs/cluster.md
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
        return any(one.needs_teacher_head for student in self.students for one in student.objective)

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
            if student.needs_masking and not self.corpus.masking:
                yield f'corpus.masking: students.{index} predicts masked tokens; give it, for example {{"prob": 0.15}}'
            if self.corpus.masking and not student.needs_masking:
                yield (
                    f"corpus.masking: students.{index} has no objective that predicts masked tokens, and would only "
                    "see text with holes; give it one (mlm, distilbert), a run of its own, or leave masking out"
                )


def read_run_config(source: Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> RunConfig:
    """Decode the configuration of a run: a JSON file or the object itself. ValueError that lists every problem."""
    return read_strictly(RunConfig, source, overrides)
