"""The configuration of a task's stages: one strict JSON file, as that of a general distillation run."""

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from transformers import AutoTokenizer

from corpus.tokenizer import tokenizer_fingerprint
from pretrain.encoder import EncoderShape
from pretrain.engine import DeepSpeedConfig
from pretrain.teacher import TeacherConfig, read_teacher_shape
from pretrain.trainer import LoopConfig
from tasks.settings import TaskConfig
from tasks.stage import StageConfig

StageName = Literal["ft", "ged", "td1", "td2"]
ORDER: tuple[StageName, ...] = ("ft", "ged", "td1", "td2")
PROVENANCE = "distillation.json"  # beside a published student: its part of the run's config


class GeneralStageConfig(BaseModel):
    """GED: a general distillation run whose teacher is the fine-tuned one and whose student goes on."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    config: str  # of launch/gd.py, with one student
    set: list[str] = []


class StagesConfig(BaseModel):
    """The stages of ERNIE-Tiny; one that is left out is not run."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    ft: StageConfig | None = None  # the teacher learns the task; else it must know it already
    ged: GeneralStageConfig | None = None
    td1: StageConfig | None = None
    td2: StageConfig | None = None


class TaskRunConfig(BaseModel):
    """A task, a large model, a published student, and what is done with them."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    about: str = ""
    task: TaskConfig
    teacher: TeacherConfig | None = None
    student: Annotated[str, Field(min_length=1)]
    stages: StagesConfig
    training: LoopConfig = LoopConfig()
    deepspeed: DeepSpeedConfig

    @model_validator(mode="after")
    def _fits_together(self) -> "TaskRunConfig":
        stages = self.stages
        if not any((stages.ft, stages.ged, stages.td1, stages.td2)):
            raise ValueError(f"stages: none is given; there are {', '.join(ORDER)}")
        wanting = [name for name in ("td1", "td2") if (one := getattr(stages, name)) and one.needs_teacher]
        wanting += [name for name in ("ft", "ged") if getattr(stages, name)]
        if wanting and self.teacher is None:
            raise ValueError(f"teacher: stages.{wanting[0]} needs one")
        if stages.ft and stages.ft.needs_teacher:
            raise ValueError('stages.ft.objective: fine-tuning has no teacher; give [{"type": "labels"}]')
        return self

    def check(self) -> None:
        """ValueError listing everything that cannot work with these models."""
        student = read_teacher_shape(self.student)
        teacher = read_teacher_shape(self.teacher.path) if self.teacher else None
        problems = [*self._length_problems(student, teacher), *self._objective_problems(student, teacher)]
        if self.teacher and _tokenizer_of(self.teacher.path) != _tokenizer_of(self.student):
            problems.append(
                f"student: {self.student} has another tokenizer than the teacher {self.teacher.path}; a student reads "
                "its teacher's tokens, so distil one with this teacher"
            )
        if problems:
            raise ValueError("\n".join(problems))

    def _length_problems(self, student: EncoderShape, teacher: EncoderShape | None) -> Iterator[str]:
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

    def warn_of_other_losses(self) -> None:
        """Say so where TD1 does not go on with the losses that the student was distilled by."""
        if self.stages.td1 is None:
            return
        types = {one.type for one in self.stages.td1.objective}
        path = Path(self.student) / PROVENANCE
        if not path.is_file():
            warnings.warn(
                f"{self.student}: does not say what it was distilled by; td1 should use the same", stacklevel=2
            )
            return
        before = {one["type"] for one in json.loads(path.read_text())["objective"]}
        if not types <= before:
            warnings.warn(
                f"stages.td1 uses {', '.join(sorted(types))}, but {self.student} was distilled by "
                f"{', '.join(sorted(before))}: a change of losses is known to hurt",
                stacklevel=2,
            )


def _tokenizer_of(path: str) -> str:
    try:
        return tokenizer_fingerprint(AutoTokenizer.from_pretrained(path))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: no tokenizer could be loaded: {str(error).strip().splitlines()[0]}") from error
