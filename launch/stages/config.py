"""The configuration of a task's stages: one strict JSON file, as that of a general distillation run."""

import json
import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from launch.command_line.config_file import prefix_errors
from launch.command_line.fingerprints import model_inputs, tokenizer_of
from launch.distillation.config import RunConfig, read_run_config
from pretrain.engines.deepspeed_config import DeepSpeedConfig
from pretrain.models.encoder import EncoderShape
from pretrain.models.pretrained import read_shape
from pretrain.models.teacher import TeacherConfig
from pretrain.settings import Settings
from pretrain.training.trainer import LoopConfig
from tasks.config import TaskConfig
from tasks.models import check_head
from tasks.stage import StageConfig

StageName = Literal["ft", "ged", "td1", "td2"]
ORDER: tuple[StageName, ...] = ("ft", "ged", "td1", "td2")
PROVENANCE = "distillation.json"  # beside a published student: its part of the run's config


class GeneralStageConfig(Settings):
    """GED: a general distillation run whose teacher is the fine-tuned one and whose student goes on."""

    config: str  # of launch/gd.py, with one student
    set: tuple[str, ...] = ()

    def run_config(self, teacher: str, student: str) -> RunConfig:
        """Its own file with the fine-tuned teacher and the student to go on with put in."""
        init = json.dumps({"student": student})
        config = read_run_config(
            Path(self.config), [*self.set, f"teacher.path={json.dumps(teacher)}", f"students.0.init={init}"]
        )
        if len(config.students) != 1:
            raise ValueError(f"stages.ged.config: {self.config} has {len(config.students)} students; one goes on")
        return config


class StagesConfig(Settings):
    """The stages of ERNIE-Tiny; one that is left out is not run."""

    ft: StageConfig | None = None  # the teacher learns the task; else it must know it already
    ged: GeneralStageConfig | None = None
    td1: StageConfig | None = None
    td2: StageConfig | None = None


class TaskRunConfig(Settings):
    """A task, a large model, a published student, and what is done with them."""

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

    @cached_property
    def general(self) -> RunConfig | None:
        """What GED runs, with the teacher as it was before FT; its file is read once."""
        ged, teacher = self.stages.ged, self.teacher
        return ged.run_config(teacher.path, self.student) if ged and teacher else None

    def check(self) -> None:
        """ValueError listing everything that cannot work with these models."""
        with prefix_errors("student"):
            student, tokenizer = read_shape(self.student), tokenizer_of(self.student)
        with prefix_errors("teacher.path"):
            teacher = read_shape(self.teacher.path) if self.teacher else None
            teachers_tokenizer = tokenizer_of(self.teacher.path) if self.teacher else tokenizer
        problems = [*self._length_problems(student, teacher), *self._objective_problems(student, teacher)]
        if self.teacher and teachers_tokenizer != tokenizer:
            problems.append(
                f"student: {self.student} has another tokenizer than the teacher {self.teacher.path}; a student reads "
                "its teacher's tokens, so distil one with this teacher"
            )
        if self.general and self.general.needs_teacher_head and self.stages.ft:
            lost = "fine-tuning gives the teacher the task's head instead"
            problems.append(f"stages.ged: distilbert needs a teacher's masked-language head; {lost}")
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

    def check_heads(self, labels: Sequence[str]) -> None:
        """ValueError where a model has a head for something else, or TD2 would learn from a teacher without one."""
        check_head(self.student, self.task.kind, labels)
        if self.teacher:
            td2 = self.stages.td2
            needs_head = bool(td2 and td2.needs_teacher_head and not self.stages.ft)
            check_head(self.teacher.path, self.task.kind, labels, needs_head)

    def warn_of_other_losses(self) -> None:
        """Say so where TD1 does not go on with the losses and the teacher that the student was distilled by."""
        if self.stages.td1 is None:
            return
        now = {one.type: one.model_dump(mode="json") for one in self.stages.td1.objective}
        made, source = self._made_by(), "stages.ged" if self.stages.ged else self.student
        if made is None:
            warnings.warn(f"{source}: does not say what it was distilled by; td1 should use the same", stacklevel=2)
            return
        before = {one["type"]: one for one in made["objective"]}
        if not now.keys() <= before.keys():
            warnings.warn(
                f"stages.td1 uses {', '.join(sorted(now))}, but {source} distils by "
                f"{', '.join(sorted(before))}: a change of losses is known to hurt",
                stacklevel=2,
            )
        for name in now.keys() & before.keys():
            for key in sorted(now[name].keys() & before[name].keys() - {"weight", "kernel"}):
                stands_for_itself = now[name][key] is not None and before[name][key] is not None
                if stands_for_itself and now[name][key] != before[name][key]:
                    then = f"{source} distils with {json.dumps(before[name][key])}"
                    warnings.warn(f"stages.td1: {name}: {key} {json.dumps(now[name][key])}, but {then}", stacklevel=2)
        if "distilbert" not in before:  # whose teacher's fingerprint is of its head too
            self._warn_of_another_teacher(made.get("teacher"))

    def _warn_of_another_teacher(self, before: dict[str, str] | None) -> None:
        """A teacher that is not fine-tuned here may have been before, and be the same otherwise: nothing is said."""
        if not before or not self.teacher or not self.stages.ft or before["path"] == self.teacher.path:
            return
        if model_inputs(self.teacher.path)["weights"] != before["fingerprint"]:
            cure = "its relations are others; stages.ged turns the student to it first"
            said = f"{self.student} was distilled from {before['path']}, td1 goes on with {self.teacher.path}: {cure}"
            warnings.warn(said, stacklevel=2)

    def _made_by(self) -> dict[str, Any] | None:
        """What the student that comes to TD1 was distilled by, where it is known."""
        if self.general:
            return self.general.students[0].model_dump(mode="json")
        try:
            made = json.loads((Path(self.student) / PROVENANCE).read_text())
            return made if all("type" in one for one in made["objective"]) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None
