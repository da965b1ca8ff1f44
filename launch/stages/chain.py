"""The stages of a task, run one after the other. Each has its own folder, so that a chain resumes after the last one.

<run>/ft, ged, td1, td2        run folders, with a done.json when finished
<run>/elastic                  the same, with sizes/2x600 and so on, and their table sizes.md
<run>/<stage>/model            the result of the stage, with its tokenizer: teacher or student of the next one
<run>/<stage>/scores.json      scores on the development examples
<run>/start                    a student that begins in the run, before any stage
<run>/config.json, inputs.json configuration, and fingerprints of models and files
"""

import json
import shutil
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist
from transformers import AutoTokenizer

from corpus.vocabulary.saved import save_tokenizer
from launch.command_line.config_file import changed_keys, read_strictly
from launch.command_line.fingerprints import file_inputs, model_inputs, task_model_inputs
from launch.command_line.next_command import load_line
from launch.distillation.checks import check_input
from launch.distillation.config import MAY_CHANGE
from launch.distillation.run_files import check_run_folder
from launch.distillation.training import build_trainer
from launch.job.facts import RanOn
from launch.job.machine import note_machine, settle_precision
from launch.job.run_folder import check_alike, check_shared, hold_run_folder, keep_kernels, read_done, write_done
from launch.publishing.student_folder import publish
from launch.stages.config import ORDER, GeneralStageConfig, StageName, TaskRunConfig
from launch.stages.elastic import publish_sizes
from pretrain.durable import new_folder, write_durably
from pretrain.models.pretrained import load_pretrained, read_shape
from pretrain.ranks.peers import PeerLost, joined_ranks
from pretrain.ranks.stopping import Stop, StopReason
from pretrain.ranks.together import on_rank_zero
from pretrain.students.student import Student
from tasks.bilstm import build_bilstm
from tasks.elastic_stage import ElasticStage, ElasticStageConfig
from tasks.evaluation import score_of_commonest_label
from tasks.examples import text_of
from tasks.kinds.kind import TaskData
from tasks.kinds.registry import KINDS
from tasks.stage import EncodedTask, Stage, encode_task, release_memory


def check_chain(config: TaskRunConfig, run: Path, world_size: int) -> None:
    """Raise ValueError, before any process group, if the folder has another configuration or GED cannot work."""
    if (run / "config.json").is_file():
        before = read_strictly(TaskRunConfig, run / "config.json").model_dump(mode="json")
        if changed := changed_keys(before, config.model_dump(mode="json"), may_change=MAY_CHANGE):
            what = f"contains a run with another configuration; changed: {', '.join(changed)}"
            raise ValueError(f"{run}: {what}. Give another --run folder")
    _check_order([name for name in ORDER if getattr(config.stages, name)], run)
    if config.general and read_done(run / "ged"):
        check_run_folder(config.general, None, run / "ged")
    elif config.general:
        check_input(config.general, run / "ged", world_size)


def _check_order(names: list[StageName], run: Path) -> None:
    """Raise ValueError if a finished stage comes after one that is not finished."""
    done = [read_done(run / name) is not None for name in names]
    num_done = done.index(False) if False in done else len(done)
    if later := [name for name, is_done in zip(names[num_done:], done[num_done:], strict=True) if is_done]:
        folders = ", ".join(str(run / name) for name in later)
        raise ValueError(f"{folders}: made from an earlier {names[num_done]}, which is not done now; remove them too")


def inputs_of(config: TaskRunConfig) -> dict[str, Any]:
    """Return fingerprints of the models, their tokenizers and the examples that a chain starts with."""
    inputs: dict[str, Any] = {
        "teacher": model_inputs(config.teacher.path) if config.teacher else None,
        "student": model_inputs(config.student) if isinstance(config.student, str) else None,
        "files": file_inputs(config.task if config.reads_unlabelled else config.task.labelled),
    }
    if config.teachers:  # absent without: runs that began before there could be several have no such key
        inputs["teachers"] = [task_model_inputs(one.path, config.task.kind) for one in config.teachers]
    return inputs


def check_inputs(config: TaskRunConfig, run: Path) -> None:
    """Record weights, tokenizers and examples the first time; later raise ValueError if any has changed."""
    now = inputs_of(config)
    path = run / "inputs.json"
    if not path.is_file():
        write_durably(path, json.dumps(now, indent=2))
        return
    try:
        changed = changed_keys(json.loads(path.read_text(encoding="utf-8")), now)
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path}: not written by a chain; give another --run folder") from error
    if changed:
        raise ValueError(f"{run}: was started with another {', '.join(changed)}. Give another --run folder")


class Chain:
    """All stages of one run, on this rank."""

    def __init__(
        self,
        config: TaskRunConfig,
        data: TaskData,
        run: Path,
        stop: Stop,
        on_lost: Callable[[PeerLost], None],
    ) -> None:
        self.config, self.data, self.run, self.stop, self.on_lost = config, data, run, stop, on_lost
        self.teacher = config.teacher.path if config.teacher else None
        self.student = config.student if isinstance(config.student, str) else str(run / "start")
        self.task: EncodedTask = encode_task(config.task, data, config.tokenizer_path)
        self.commonest = score_of_commonest_label(data, config.task)

    def train(self) -> StopReason:
        """Run the stages that are not done yet; return why it stopped before their end, or NONE.

        Raises ValueError if a stage cannot go on, PeerLost if another rank is lost.
        """
        with joined_ranks(self.config.training.collective_timeout_seconds, self.on_lost) as self.device:
            check_alike(self.config.model_dump(mode="json"), inputs_of(self.config))
            self.config = keep_kernels(self.config, self.run)
            self.settled, ran_on = settle_precision(self.config, self.run, self.device)
            on_rank_zero(lambda: self._start(ran_on))
            check_shared(self.run / "config.json")
            reason = self._run_stages()
            if reason and dist.get_rank() == 0:
                print(f"[rank 0] stopped: {reason}; run again to resume", file=sys.stderr, flush=True)
            elif dist.get_rank() == 0:
                print(summary(self.config, self.run, self.commonest), flush=True)
        return reason

    def _run_stages(self) -> StopReason:
        for name in ORDER:
            stage = getattr(self.config.stages, name)
            if stage is None:
                continue
            if not self._is_done(self.run / name):
                release_memory()
                if name == "elastic":
                    reason = self._run_elastic(stage)
                else:
                    reason = self._run_general(stage) if name == "ged" else self._run_stage(name)
                if reason:
                    return reason
            if name == "ft":
                self.teacher = str(self.run / name / "model")
            else:
                self.student = str(self.run / name / "model")
        return StopReason.NONE

    def _is_done(self, folder: Path) -> bool:
        return on_rank_zero(lambda: read_done(folder) is not None)

    def _start(self, ran_on: RanOn) -> None:
        hold_run_folder(self.run)
        check_inputs(self.config, self.run)
        self.config.warn_of_other_losses()
        self.config.deepspeed.warn(dist.get_world_size())
        write_durably(self.run / "config.json", self.config.model_dump_json(indent=2))
        note_machine(self.run, ran_on, 0)
        self._begin_student()

    def _begin_student(self) -> None:
        config, folder = self.config, self.run / "start"
        if isinstance(config.student, str) or folder.is_dir():
            return
        sizes, separator = config.student.bilstm, self.task.tokenizer.sep_token_id
        model = build_bilstm(sizes, config.task.kind, config.tokenizer_path, separator, config.training.seed)
        with new_folder(folder) as partial:
            model.save_pretrained(partial)
            self._save_tokenizer(partial, model.config.max_row_tokens)

    def _run_stage(self, name: StageName) -> StopReason:
        config, folder = self.settled, self.run / name
        student, teacher = (self.teacher, None) if name == "ft" else (self.student, config.teachers or self.teacher)
        assert student
        dtype = config.teacher.dtype if config.teacher else config.deepspeed.torch_autocast.wanted
        stage = Stage(
            folder, name, self.task, getattr(config.stages, name), student, teacher, dtype, config.training,
            config.deepspeed, self.device, lambda: self.stop.reason,
        )  # fmt: skip
        self.stop.waits_for = stage.trainer.outlook
        if reason := stage.trainer.train():
            return reason
        scores = stage.score(self.task.dev, self.data.dev) if stage.config.reads_labels else None

        def finish() -> None:
            self._publish(folder, stage.student)
            if scores:
                write_durably(folder / "scores.json", json.dumps(scores, indent=2))
                warn_of_collapse(name, scores[self.config.task.scored_by], self.commonest)
            write_done(folder, stage.trainer.state)

        on_rank_zero(finish)
        return StopReason.NONE

    def _run_elastic(self, settings: ElasticStageConfig) -> StopReason:
        """Run the phases: all but the last in a folder of their own, the last one in the stage's."""
        config, folder, model = self.settled, self.run / "elastic", self.teacher
        assert model and config.teacher
        for phase in settings.phases:
            own = folder if phase == settings.phases[-1] else folder / phase
            if self._is_done(own):
                model = str(own / "model")
                continue
            release_memory()
            stage = ElasticStage(
                phase, own, self.task, settings, model, config.teacher.dtype, config.training, config.deepspeed,
                self.device, lambda: self.stop.reason,
            )  # fmt: skip
            self.stop.waits_for = stage.trainer.outlook
            if reason := stage.trainer.train():
                return reason
            scores = stage.score_sizes(self.task.dev, self.data.dev)
            on_rank_zero(partial(self._finish_elastic, own, stage, scores))
            model = str(own / "model")
        return StopReason.NONE

    def _finish_elastic(self, folder: Path, stage: ElasticStage, scores: dict[str, dict[str, float]]) -> None:
        self._publish(folder, stage.student)
        texts = [" ".join(text_of(example)) for example in self.data.dev[:100]]
        scored_by, row_tokens = self.config.task.scored_by, self.config.task.row_tokens
        publish_sizes(folder, stage.student.published, self.config.tokenizer_path, scores, scored_by, texts, row_tokens)
        largest = next(iter(scores.values()))
        write_durably(folder / "scores.json", json.dumps(largest, indent=2))
        warn_of_collapse("elastic", largest[scored_by], self.commonest)
        write_done(folder, stage.trainer.state)

    def _publish(self, folder: Path, student: Student) -> None:
        with new_folder(folder / "model", replace=True) as partial:
            student.published.save_pretrained(partial)
            self._save_tokenizer(partial, student.encoder.shape.max_row_tokens)

    def _save_tokenizer(self, folder: Path, max_tokens: int) -> None:
        save_tokenizer(load_pretrained(AutoTokenizer, self.config.tokenizer_path), folder, max_tokens)

    def _run_general(self, stage: GeneralStageConfig) -> StopReason:
        assert self.teacher
        config, folder = stage.run_config(self.teacher, self.student), self.run / "ged"
        job = check_input(config, folder, dist.get_world_size())
        trainer = build_trainer(config, job, folder, self.stop, self.device)
        self.stop.waits_for = trainer.outlook
        if reason := trainer.train():
            return reason

        def finish() -> None:
            shutil.rmtree(folder / "model", ignore_errors=True)
            publish(folder, config.students[0].name, folder / "model")
            write_done(folder, trainer.state)

        on_rank_zero(finish)
        return StopReason.NONE


def warn_of_collapse(stage: StageName, score: float, commonest: float | None) -> None:
    """Warn if a model is no better than always answering the commonest label."""
    if commonest is not None and score <= commonest:
        scores = f"{score:.4f} is not better than always answering the commonest label, {commonest:.4f}"
        remedy = f"other learning rates or more epochs may help (stages.{stage})"
        warnings.warn(f"{stage}: {scores}; {remedy}", stacklevel=2)


def summary(config: TaskRunConfig, run: Path, commonest: float | None = None) -> str:
    """Return a line per stage with its scores on the development examples, and the score of the commonest label."""
    lines = [f"{'stage':<8}{config.task.scored_by:>16}  all scores"]
    for name in ORDER:
        path = run / name / "scores.json"
        if path.is_file():
            scores = json.loads(path.read_text(encoding="utf-8"))
            every = ", ".join(f"{key} {value:.4f}" for key, value in scores.items())
            lines.append(f"{name:<8}{scores[config.task.scored_by]:>16.4f}  {every}")
    if commonest is not None:
        lines.append(f"{'':<8}{commonest:>16.4f}  always the commonest label")
    last = [name for name in ORDER if getattr(config.stages, name)][-1]
    auto_class = "AutoModel" if last == "ged" else KINDS[config.task.kind].auto_class.__name__
    if (run / "elastic/sizes.md").is_file():
        lines += ["", (run / "elastic/sizes.md").read_text(encoding="utf-8")]
    model = run / last / "model"
    is_ours = not read_shape(str(model), needs_layers=False).has_layers
    line = load_line(model, auto_class, before="import tasks.bilstm; " if is_ours else "")
    return "\n".join([*lines, f"models: {run}/<stage>/model", line])
