"""The stages of a task one after the other, each with a folder and a done.json of its own, so that a chain picks up
after the last one that is finished.

<run>/ft, ged, td1, td2        run folders
<run>/<stage>/model            what the stage gives, with its tokenizer: the next one's teacher or student
<run>/<stage>/scores.json      of the development examples
"""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch.distributed as dist
from transformers import AutoTokenizer

from launch.distillation import build_trainer, check_input
from launch.publish import publish
from launch.run_config import RunConfig, changed_keys, read_run_config
from launch.run_folder import hold_run_folder, read_done, write_done
from launch.task_run_config import ORDER, GeneralStageConfig, StageName, TaskRunConfig
from pretrain.durable import write_durably
from pretrain.engine import start_distributed
from pretrain.outcome import on_rank_zero
from pretrain.peers import Heartbeat, PeerLost
from pretrain.stopping import StopRequest, explain_stop, ignore_stop_requests
from tasks.readers import TaskData
from tasks.stage import EncodedTask, Stage, encode_task


def check_chain_folder(config: TaskRunConfig, run: Path) -> None:
    """Refuse a run folder that another config made."""
    if not (run / "config.json").is_file():
        return
    changed = changed_keys(json.loads((run / "config.json").read_text()), config.model_dump(mode="json"))
    if changed:
        raise ValueError(
            f"{run}: belongs to another config; different: {', '.join(changed)}. Give another --run folder"
        )


def general_config(stage: GeneralStageConfig, teacher: str, student: str) -> RunConfig:
    """GED's config: its own file with the fine-tuned teacher and the student to go on with put in."""
    init = json.dumps({"student": student})
    overrides = [*stage.set, f"teacher.path={teacher}", f"students.0.init={init}"]
    config = read_run_config(Path(stage.config), overrides)
    if len(config.students) != 1:
        raise ValueError(f"stages.ged.config: {stage.config} has {len(config.students)} students; one goes on")
    return config


class Chain:
    """All stages of one run on this rank."""

    def __init__(
        self,
        config: TaskRunConfig,
        data: TaskData,
        run: Path,
        stop: StopRequest,
        on_lost: Callable[[PeerLost], None],
    ) -> None:
        self.config, self.data, self.run, self.stop, self.on_lost = config, data, run, stop, on_lost
        self.teacher, self.student = config.teacher.path if config.teacher else None, config.student
        self.task: EncodedTask = encode_task(config.task, data, config.student)

    def train(self) -> int:
        """Runs what is not done yet; the number of what stopped it, or 0.

        Raises ValueError where a stage cannot go on, PeerLost where another rank is gone; see launch/distillation.py.
        """
        timeout_seconds = self.config.training.collective_timeout_seconds
        self.device = start_distributed(timeout_seconds)
        on_rank_zero(self._begin)
        heartbeat = Heartbeat(timeout_seconds, self.on_lost)
        number = self._run_stages()
        if number and dist.get_rank() == 0:
            print(f"[rank 0] stopped: {explain_stop(number)}; run again to go on", file=sys.stderr, flush=True)
        ignore_stop_requests()  # launchers end the other ranks as soon as the first one is gone
        dist.barrier()
        heartbeat.close()
        return number

    def _run_stages(self) -> int:
        for name in ORDER:
            stage = getattr(self.config.stages, name)
            if stage is None:
                continue
            if not read_done(self.run / name):
                number = self._run_general(stage) if name == "ged" else self._run_stage(name)
                if number:
                    return number
            if name == "ft":
                self.teacher = str(self.run / name / "model")
            else:
                self.student = str(self.run / name / "model")
        return 0

    def _begin(self) -> None:
        hold_run_folder(self.run)
        self.config.warn_of_other_losses()
        write_durably(self.run / "config.json", self.config.model_dump_json(indent=2))

    def _run_stage(self, name: StageName) -> int:
        config, folder = self.config, self.run / name
        student, teacher = (self.teacher, None) if name == "ft" else (self.student, self.teacher)
        assert student
        dtype = config.teacher.dtype if config.teacher else "float32"
        stage = Stage(
            folder, name, self.task, getattr(config.stages, name), student, teacher, dtype, config.training,
            config.deepspeed, self.device, lambda: self.stop.number,
        )  # fmt: skip
        if number := stage.trainer.train():
            return number
        scores = stage.score(self.task.dev, self.data.dev) if stage.config.reads_labels else None

        def finish() -> None:
            self._publish(folder, lambda partial: stage.student.published.save_pretrained(partial))
            if scores:
                write_durably(folder / "scores.json", json.dumps(scores, indent=2))
            write_done(folder, stage.trainer.state)

        on_rank_zero(finish)
        return 0

    def _publish(self, folder: Path, save: Callable[[Path], None]) -> None:
        partial = folder / ".model.partial"
        shutil.rmtree(partial, ignore_errors=True)
        save(partial)
        AutoTokenizer.from_pretrained(self.config.student).save_pretrained(partial)
        shutil.rmtree(folder / "model", ignore_errors=True)
        partial.rename(folder / "model")

    def _run_general(self, stage: GeneralStageConfig) -> int:
        assert self.teacher
        config, folder = general_config(stage, self.teacher, self.student), self.run / "ged"
        trainer = build_trainer(config, check_input(config, folder, dist.get_world_size()), folder, self.stop)
        if number := trainer.train():
            return number

        def finish() -> None:
            shutil.rmtree(folder / "model", ignore_errors=True)
            publish(folder, config.students[0].name, folder / "model")
            write_done(folder, trainer.state)

        on_rank_zero(finish)
        return 0


def summary(config: TaskRunConfig, run: Path) -> str:
    """A line a stage: its scores on the development examples."""
    lines = [f"{'stage':<8}{config.task.scored_by:>16}  all scores"]
    for name in ORDER:
        path = run / name / "scores.json"
        if path.is_file():
            scores = json.loads(path.read_text())
            every = ", ".join(f"{key} {value:.4f}" for key, value in scores.items())
            lines.append(f"{name:<8}{scores[config.task.scored_by]:>16.4f}  {every}")
    return "\n".join([*lines, f"models: {run}/<stage>/model"])
