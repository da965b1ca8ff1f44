"""The configuration of a task's stages."""

import json
import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, JsonValue, Tag, field_validator, model_validator

from launch.command_line.config_file import prefix_errors
from launch.command_line.fingerprints import model_inputs, tokenizer_of
from launch.distillation.config import RunConfig, read_run_config
from pretrain.engines.deepspeed_config import DeepSpeedConfig
from pretrain.models.pretrained import read_shape
from pretrain.models.shape import EncoderShape
from pretrain.models.teacher import TeacherConfig
from pretrain.settings import Settings
from pretrain.training.trainer import LoopConfig
from tasks.bilstm import KINDS as BILSTM_KINDS
from tasks.bilstm import BiLSTMSizes
from tasks.config import TaskConfig
from tasks.elastic_stage import ElasticStageConfig
from tasks.models import check_head
from tasks.stage import StageConfig
from tasks.teachers import WeightedTeacher

StageName = Literal["ft", "ged", "td1", "td2", "elastic"]
ORDER: tuple[StageName, ...] = ("ft", "ged", "td1", "td2", "elastic")
PROVENANCE = "distillation.json"  # in the folder of a published student: its part of the run's configuration


class GeneralStageConfig(Settings):
    """GED: general distillation continued with the fine-tuned teacher."""

    config: str  # a configuration file of launch/gd.py with one student
    set: tuple[str, ...] = ()  # its keys to change, as for --set
    adversarial: JsonValue = None  # must be left out: general text has no labels

    @field_validator("adversarial")
    @classmethod
    def _check_labels(cls, value: JsonValue) -> None:
        if value is not None:
            raise ValueError("general text has no labels; give adversarial to ft or td2")

    def run_config(self, teacher: str, student: str) -> RunConfig:
        """Read the configuration file, and put in the teacher and the student to start from."""
        init = json.dumps({"student": student})
        config = read_run_config(
            Path(self.config), [*self.set, f"teacher.path={json.dumps(teacher)}", f"students.0.init={init}"]
        )
        if len(config.students) != 1:
            raise ValueError(f"stages.ged.config: {self.config} has {len(config.students)} students; must have one")
        return config


class StagesConfig(Settings):
    """The stages of ERNIE-Tiny, and DynaBERT's of the teacher itself. Stages that are left out are not run."""

    ft: StageConfig | None = None  # fine-tunes the teacher; without it the teacher must be fine-tuned already
    ged: GeneralStageConfig | None = None
    td1: StageConfig | None = None
    td2: StageConfig | None = None
    elastic: ElasticStageConfig | None = None  # makes smaller sizes of the fine-tuned teacher, not of the student


class NewStudent(Settings):
    """A student that begins in this run, with the tokenizer of its teacher; it learns predictions, in td2."""

    bilstm: BiLSTMSizes  # a bidirectional LSTM with a maximum over tokens, for tasks of kind sentence and pair


def _kind_of_student(value: Any) -> str:
    return "published" if isinstance(value, str) else "new"


Published = Annotated[str, Field(min_length=1)]
AnyStudent = Annotated[
    Annotated[Published, Tag("published")] | Annotated[NewStudent, Tag("new")], Discriminator(_kind_of_student)
]


class TaskRunConfig(Settings):
    """A task, a teacher, a student, and the stages to run with them."""

    about: str = ""  # a description for people
    task: TaskConfig
    teacher: TeacherConfig | None = None
    teachers: Annotated[list[WeightedTeacher], Field(min_length=1)] | None = None  # in its place: several, averaged
    student: AnyStudent  # the folder of a published one, or an object: one that begins here
    stages: StagesConfig
    training: LoopConfig = LoopConfig()
    deepspeed: DeepSpeedConfig

    @model_validator(mode="after")
    def _fits_together(self) -> "TaskRunConfig":
        stages = self.stages
        if not any(getattr(stages, name) for name in ORDER):
            raise ValueError(f"stages: must have at least one of {', '.join(ORDER)}")
        wanting = [name for name in ("td1", "td2") if (one := getattr(stages, name)) and one.needs_teacher]
        wanting += [name for name in ("ft", "ged", "elastic") if getattr(stages, name)]
        if self.teachers:
            self._check_several()
        elif wanting and self.teacher is None:
            raise ValueError(f"teacher: stages.{wanting[0]} needs one")
        if stages.ft and stages.ft.needs_teacher:
            raise ValueError('stages.ft.objective: must be [{"type": "labels"}]: fine-tuning has no teacher')
        if isinstance(self.student, NewStudent):
            for problem in self._problems_without_layers():
                raise ValueError(problem)
        return self

    def _problems_without_layers(self) -> Iterator[str]:
        """Yield what a student that has no layers to read, a BiLSTM, cannot learn."""
        if self.task.kind not in BILSTM_KINDS:
            yield (
                f"student: a BiLSTM learns tasks of kind {' and '.join(BILSTM_KINDS)}, and {self.task.name} is of kind "
                f"{self.task.kind}: use a published student"
            )
        if not self.teacher and not self.teachers and isinstance(self.student, NewStudent):
            yield "student: a BiLSTM begins with a teacher's tokenizer, even where it learns labels alone: give teacher"
        if self.stages.ged:
            yield "stages.ged: general distillation reads layers of the student, and a BiLSTM has none: leave it out"
        if (td2 := self.stages.td2) and td2.quantization and td2.quantization.weights == 8:
            yield (
                "stages.td2.quantization.weights: must be 4 for a BiLSTM, or quantization left out: an int8 graph also "
                "rounds its LSTM, which training does not"
            )
        for name in ("td1", "td2"):
            stage: StageConfig | None = getattr(self.stages, name)
            for index, one in enumerate(stage.objective if stage else []):
                if not one.reads_task_head:
                    yield (
                        f"stages.{name}.objective.{index}: {one.type} reads layers of the student, and a BiLSTM has "
                        "none: use soft_labels, logits_mse and labels, in td2"
                    )

    def _check_several(self) -> None:
        """Raise ValueError if several teachers are given to stages that have one."""
        if self.teacher:
            raise ValueError("teachers: are given in place of teacher; leave out one of them")
        paths = [one.path for one in self.teachers or ()]
        if repeated := [path for path in paths if paths.count(path) > 1]:
            raise ValueError(f"teachers: {repeated[0]} is listed more than once; give it a weight")
        if self.stages.elastic:
            raise ValueError(
                "stages.elastic: is made from one fine-tuned teacher; give it as teacher, in a run of its own"
            )
        for name in ("ft", "ged"):
            if getattr(self.stages, name):
                raise ValueError(
                    f"stages.{name}: has one teacher; fine-tune each in a run of its own, list their ft/model folders "
                    f"in teachers, and leave out {name}"
                )

    @property
    def reads_unlabelled(self) -> bool:
        """Whether a stage learns from the teacher alone, and so from texts without labels."""
        stages = self.stages.td1, self.stages.td2, self.stages.elastic
        return any(stage and stage.needs_teacher for stage in stages)

    @property
    def reads_predictions(self) -> bool:
        """Whether the student learns from predictions of its teachers."""
        return any(stage and stage.needs_teacher_head for stage in (self.stages.td1, self.stages.td2))

    @cached_property
    def general(self) -> RunConfig | None:
        """The configuration of GED with the teacher before FT; its file is read once."""
        ged, teacher = self.stages.ged, self.teacher
        return ged.run_config(teacher.path, self.student) if ged and teacher and isinstance(self.student, str) else None

    @property
    def tokenizer_path(self) -> str:
        """The model whose tokenizer encodes the rows: a published student, or the first teacher of a new one."""
        if isinstance(self.student, str):
            return self.student
        teachers = [one for one in (self.teacher, *(self.teachers or ())) if one]
        return teachers[0].path

    def check(self) -> None:
        """Raise ValueError listing everything that does not fit these models."""
        is_new = isinstance(self.student, NewStudent)
        with prefix_errors("teacher" if is_new else "student"):
            student = None if is_new else read_shape(self.tokenizer_path, needs_layers=False)
            tokenizer = tokenizer_of(self.tokenizer_path)
        with prefix_errors("teacher.path"):
            teacher = read_shape(self.teacher.path) if self.teacher else None
            teachers_tokenizer = tokenizer_of(self.teacher.path) if self.teacher else tokenizer
        problems = [*self._length_problems(student, teacher)]
        if student and student.has_layers:
            problems += self._objective_problems(student, teacher)
        elif student:
            problems += self._problems_without_layers()
        if self.teacher and teachers_tokenizer != tokenizer:
            problems.append(
                f"student: {self.student} has another tokenizer than the teacher {self.teacher.path}; use a student "
                "distilled from a teacher with this tokenizer"
            )
        for index, one in enumerate(self.teachers or ()):
            problems += self._several_problems(f"teachers.{index}.path", one.path, tokenizer, student)
        if self.general and self.general.needs_teacher_head and self.stages.ft:
            lost = "fine-tuning replaces that by the task's head"
            problems.append(f"stages.ged: distilbert needs a teacher's masked-language head; {lost}")
        if problems:
            raise ValueError("\n".join(problems))

    def _several_problems(self, key: str, path: str, tokenizer: str, student: EncoderShape | None) -> Iterator[str]:
        with prefix_errors(key):
            teacher, teachers_tokenizer = read_shape(path), tokenizer_of(path)
        if student and student.has_layers:
            yield from (f"{problem} ({key}: {path})" for problem in self._objective_problems(student, teacher))
        if teachers_tokenizer != tokenizer:
            remedy = "all teachers read the student's rows; use teachers with its tokenizer"
            yield f"{key}: {path} has another tokenizer than the student {self.tokenizer_path}; {remedy}"
        if self.task.row_tokens > (most := teacher.max_row_tokens):
            yield f"task.row_tokens: {path} has {most} positions, got {self.task.row_tokens}"

    def _length_problems(self, student: EncoderShape | None, teacher: EncoderShape | None) -> Iterator[str]:
        for owner, shape in (("student", student), ("teacher", teacher)):
            if shape and self.task.row_tokens > shape.max_row_tokens:
                most = shape.max_row_tokens
                yield f"task.row_tokens: the {owner} has {most} positions, got {self.task.row_tokens}"

    def _objective_problems(self, student: EncoderShape, teacher: EncoderShape | None) -> Iterator[str]:
        for name in ("td1", "td2"):
            stage: StageConfig | None = getattr(self.stages, name)
            for index, objective in enumerate(stage.objective if stage and teacher else []):
                assert teacher
                for key, message in objective.problems(teacher, student):
                    yield f"stages.{name}.objective.{index}.{key}: {message}"
        if self.stages.elastic and teacher:
            for key, message in self.stages.elastic.problems(teacher):
                yield f"stages.elastic.{key}: {message}"

    def check_heads(self, labels: Sequence[str]) -> None:
        """Raise ValueError if a model has a head for another task, or TD2 would learn from a teacher without a head."""
        if isinstance(self.student, str):
            check_head(self.student, self.task.kind, labels)
        for index, one in enumerate(self.teachers or ()):
            with prefix_errors(f"teachers.{index}.path"):
                check_head(one.path, self.task.kind, labels, needs_head=self.reads_predictions)
        if self.teacher:
            needs_head = bool(self.stages.elastic or self.reads_predictions) and not self.stages.ft
            check_head(self.teacher.path, self.task.kind, labels, needs_head)

    def warn_of_other_losses(self) -> None:
        """Warn if TD1 has other losses or another teacher than the student was distilled with."""
        if self.stages.td1 is None or not isinstance(self.student, str):
            return
        now = {one.type: one.model_dump(mode="json") for one in self.stages.td1.objective}
        made = self._made_by()
        source = "stages.ged is configured" if self.stages.ged else f"{self.student} was distilled"
        if made is None:
            message = f"{self.student}: does not say with which losses it was distilled; stages.td1 should use the same"
            warnings.warn(message, stacklevel=2)
            return
        before = {one["type"]: one for one in made["objective"]}
        if not now.keys() <= before.keys():
            warnings.warn(
                f"stages.td1 uses {', '.join(sorted(now))}, but {source} with {', '.join(sorted(before))}: "
                "changing losses is known to hurt",
                stacklevel=2,
            )
        for name in now.keys() & before.keys():
            for key in sorted(now[name].keys() & before[name].keys() - {"weight", "kernel"}):
                both_given = now[name][key] is not None and before[name][key] is not None
                if both_given and now[name][key] != before[name][key]:
                    then = f"{source} with {json.dumps(before[name][key])}"
                    warnings.warn(f"stages.td1: {name}: {key} {json.dumps(now[name][key])}, but {then}", stacklevel=2)
        if "distilbert" not in before:  # with it the teacher's fingerprint includes its head
            self._warn_of_another_teacher(made.get("teacher"))

    def _warn_of_another_teacher(self, before: dict[str, str] | None) -> None:
        """Warn if the teacher has other weights than the student's. Not without FT: it may be fine-tuned already."""
        if not before or not self.teacher or not self.stages.ft or before["path"] == self.teacher.path:
            return
        if model_inputs(self.teacher.path)["weights"] != before["fingerprint"]:
            change = f"was distilled from {before['path']}, but stages.td1 uses the teacher {self.teacher.path}"
            remedy = "which has other relations; add stages.ged to adapt the student first"
            warnings.warn(f"{self.student} {change}, {remedy}", stacklevel=2)

    def _made_by(self) -> dict[str, Any] | None:
        """Return the configuration with which TD1's student was distilled; None if it is not known."""
        if self.general:
            return self.general.students[0].model_dump(mode="json")
        try:
            made = json.loads((Path(str(self.student)) / PROVENANCE).read_text(encoding="utf-8"))
            return made if all("type" in one for one in made["objective"]) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None
