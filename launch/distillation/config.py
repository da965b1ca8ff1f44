"""The configuration of a general distillation run."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from corpus.rows.masking import MaskingSettings
from corpus.rows.order import NUM_LANES
from corpus.rows.packing import RowKind
from corpus.rows.sentence_pairs import PairOrder
from corpus.shards.manifest import OnFault
from launch.command_line.config_file import read_strictly
from launch.distillation.grid import expand_grids
from launch.distillation.probe_config import ProbeConfig
from pretrain.engines.deepspeed_config import DeepSpeedConfig
from pretrain.models.family import family_of
from pretrain.models.shape import EncoderShape
from pretrain.models.teacher import TeacherConfig
from pretrain.objectives.sentence import SentenceConfig
from pretrain.settings import Settings
from pretrain.students.config import StudentConfig
from pretrain.training.trainer import TrainingConfig

# Keys that may change when a run resumes. "*" matches any keys.
MAY_CHANGE = ("about", "probe", "corpus.manifest", "corpus.cache_folder", "corpus.cache_gigabytes", "corpus.on_fault",
              "teacher.path", "teacher.dtype", "teacher.vectors", "training.log_every_steps",
              "training.save_every_steps", "training.keep_checkpoints", "training.collective_timeout_seconds",
              "training.data_timeout_seconds",
              "training.on_slow_step", "training.max_skipped_in_a_row", "deepspeed.train_micro_batch_size_per_gpu",
              "deepspeed.torch_autocast", "deepspeed.zero_optimization.stage", "*.kernel")  # fmt: skip


class CorpusConfig(Settings):
    """The corpus, and how it is read: length, kind, order and masking of rows."""

    manifest: str  # path or URL of a built corpus's manifest.json
    row_tokens: Annotated[int, Field(ge=8)]
    seed: NonNegativeInt = 17  # for the order of rows
    weights: dict[str, NonNegativeFloat] = Field(default_factory=dict)  # by source; 1 for sources not listed
    rows: RowKind = "packed"  # or TinyBERT's pairs of consecutive text, CLS A SEP B SEP, or texts: a document a row
    order: PairOrder = "kept"  # of pairs; swapped_half: whole sentences, B before A in half, for sentence_order
    bucket_steps: PositiveInt = 64  # of pairs, texts: rows are sorted by length within so many steps; 1: not sorted
    attend_within_documents: bool = False  # read each packed document as if it were alone in its row
    masking: MaskingSettings | None = None  # for objectives that predict masked tokens
    num_lanes: PositiveInt = NUM_LANES  # a multiple of the ranks, or they read bytes repeatedly: docs/cluster.md
    on_fault: OnFault = "stop"  # skip: leave out rows of blocks whose bytes have changed or are lost
    cache_folder: str | None = None  # on this host's disk, for a manifest behind a URL
    cache_gigabytes: Annotated[float, Field(gt=0)] = 50.0


class DistillationTeacher(TeacherConfig):
    """The frozen teacher, how it computes, and for text vectors its prompt and where they are kept."""

    prompt: str | None = None  # name in its config_sentence_transformers.json: stands before every text
    prompts_students: bool = True  # students read the prompt too, and are published with it
    vectors: str | None = None  # folder of its text vectors: made once, read by every later student of `sentence`
    capture: bool = False  # launch its pass as one CUDA graph: faster where micro-batches are small


class RunConfig(Settings):
    """One run: a corpus, a frozen teacher or none, and one or several students."""

    about: str = ""  # a description for people
    corpus: CorpusConfig
    teacher: DistillationTeacher | None  # null: students learn from text alone
    students: Annotated[list[StudentConfig], Field(min_length=1)]
    training: TrainingConfig
    deepspeed: DeepSpeedConfig
    probe: ProbeConfig | None = None  # scores of the students during training

    @model_validator(mode="after")
    def _probe_has_what_it_needs(self) -> "RunConfig":
        if self.probe and self.probe.heldout and self.teacher is None:
            raise ValueError("probe.heldout: needs a teacher, whose relations it compares; leave it out")
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> "RunConfig":
        names = [student.name for student in self.students]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"students: names must differ, got {', '.join(repeated)} more than once")
        return self

    def length(self, rows_per_epoch: int) -> str:
        """Return a sentence on the length of an epoch and of the run in epochs."""
        rows, steps = self.deepspeed.train_batch_size, self.training.total_steps
        epoch = f"one epoch = {rows_per_epoch:,} rows of {self.corpus.row_tokens} tokens = {rows_per_epoch / rows:,.1f}"
        covered = f"this run of {steps:,} steps covers {steps * rows / rows_per_epoch:.2f} epochs"
        return f"{epoch} steps of {rows} rows; {covered}"

    @property
    def needs_teacher_head(self) -> bool:
        """Whether an objective reads the teacher's masked-language head."""
        return any(one.needs_teacher_head for student in self.students for one in student.objective)

    def check(self, teacher: EncoderShape | None) -> None:
        """Raise ValueError listing everything that does not fit this teacher, or a run without one (None)."""
        problems = [
            f"students.{index}.{key}: {message}" + (f" (student {student.name})" if len(self.students) > 1 else "")
            for index, student in enumerate(self.students)
            for key, message in student.problems(teacher)
        ]
        problems += [
            *self._order_problems(),
            *self._masking_problems(),
            *self._text_problems(),
            *self._vector_problems(),
        ]
        problems += self._document_problems(teacher)
        owners = {"the teacher": teacher} | {student.name: student.architecture for student in self.students}
        for owner, limits in owners.items():
            if limits and self.corpus.row_tokens > limits.max_row_tokens:
                most = limits.max_row_tokens
                problems.append(f"corpus.row_tokens: {owner} has {most} positions, got {self.corpus.row_tokens}")
            for key in ("task", "pairs") if limits and self.probe else ():
                task = getattr(self.probe, key)
                if limits and task and task.row_tokens > limits.max_row_tokens:
                    most = limits.max_row_tokens
                    problems.append(f"probe.{key}.row_tokens: {owner} has {most} positions, got {task.row_tokens}")
        if teacher and self.corpus.rows == "pairs" and teacher.num_token_types < 2:
            problems.append("corpus.rows: pairs need two token types, but the teacher has one")
        if problems:
            raise ValueError("\n".join(problems))

    def _text_problems(self) -> Iterator[str]:
        for index, student in enumerate(self.students):
            for number, objective in enumerate(student.objective):
                if objective.reads_text_vectors and self.corpus.rows != "texts":
                    where = f"students.{index}.objective.{number}"
                    yield f'corpus.rows: must be "texts" because {where} ({objective.type}) compares vectors of texts'

    def _order_problems(self) -> Iterator[str]:
        if self.corpus.order != "kept" and self.corpus.rows != "pairs":
            yield f'corpus.order: {self.corpus.order} is for corpus.rows "pairs", got {self.corpus.rows}'
        for index, student in enumerate(self.students):
            for number, objective in enumerate(student.objective):
                if objective.reads_order and self.corpus.order != "swapped_half":
                    where = f"students.{index}.objective.{number} ({objective.type})"
                    yield f'corpus.order: {where} needs swapped pairs: "rows": "pairs", "order": "swapped_half"'

    @property
    def samples_tokens(self) -> bool:
        """Whether a student reads sampled tokens, for which batches have random numbers."""
        return any(one.samples_tokens for student in self.students for one in student.objective)

    def _document_problems(self, teacher: EncoderShape | None) -> Iterator[str]:
        types = {"teacher": teacher.model_type if teacher else ""}
        types |= {one.name: one.architecture.model_type for one in self.students if one.architecture}
        for owner, model_type in types.items():
            if self.corpus.attend_within_documents and not family_of(model_type).takes_documents:
                message = f"attention of a {model_type} model ({owner}) takes no mask of documents"
                yield f"corpus.attend_within_documents: {message}; leave it false"

    def _vector_problems(self) -> Iterator[str]:
        """Yield why the teacher cannot be read for its text vectors alone, or with a prompt."""
        teacher = self.teacher
        if teacher is None or (teacher.prompt is None and teacher.vectors is None):
            return
        alone = "teacher.vectors" if teacher.vectors else "teacher.prompts_students"
        if self.corpus.rows != "texts":
            yield f'corpus.rows: must be "texts" with {"teacher.prompt" if teacher.prompt else alone}'
        if teacher.vectors and self.corpus.masking:
            yield "teacher.vectors: corpus.masking changes what the teacher reads in every epoch; leave out one of them"
        if not self.reads_vectors_alone:
            return
        poolings = set()
        for index, student in enumerate(self.students):
            for number, one in enumerate(student.objective):
                if isinstance(one, SentenceConfig):
                    poolings.add(one.pooling)
                elif one.needs_teacher:
                    where = f"students.{index}.objective.{number} ({one.type})"
                    yield f"{alone}: {where} reads more of the teacher than its text vectors; leave out one of them"
        if len(poolings) != 1:
            found = ", ".join(sorted(poolings)) or "none"
            yield f"{alone}: needs objectives of type sentence with one pooling, got {found}"

    @property
    def reads_vectors_alone(self) -> bool:
        """Whether students get nothing but text vectors of the teacher."""
        teacher = self.teacher
        return bool(teacher and (teacher.vectors or (teacher.prompt and not teacher.prompts_students)))

    def _masking_problems(self) -> Iterator[str]:
        for index, student in enumerate(self.students):
            if student.needs_masking and not self.corpus.masking:
                example = '{"prob": 0.15}'
                yield f"corpus.masking: is required because students.{index} predicts masked tokens, such as {example}"
            if self.corpus.masking and not student.needs_masking:
                yield (
                    f"corpus.masking: students.{index} has no objective that predicts masked tokens; add one (mlm, "
                    "distilbert, replaced_tokens), train this student in another run, or leave out masking"
                )


def read_run_config(source: Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> RunConfig:
    """Read the configuration of a run: a JSON file, or the object itself. Raise ValueError listing every problem."""
    return read_strictly(RunConfig, source, overrides, expand_grids)
