"""A student on a whole benchmark: fine-tuned teacher, both stages of distillation, predictions and the zip to submit.

    python -m launch.prediction.suite_run --suite nlpcc2020 --student students/4l312d --output runs/nlpcc2020

Tasks that are not on this disk are named and left out. What is finished is kept: the same command goes on after a stop.
Another student, teacher or other keys want another --output: td.py refuses them for runs that are there.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from launch.command_line.terminal import accept_any_terminal
from launch.evaluation.config import TASK_FOLDER
from launch.evaluation.suites import Suite, file_to_predict, find_tasks, read_suite, render_suite
from launch.job.rank import REFUSED
from launch.prediction.packing import pack_files
from launch.stages.config import PROVENANCE
from pretrain.durable import write_durably
from pretrain.progress import say
from tasks.config import TaskConfig

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[[Sequence[str]], int]


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Decode the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", required=True, help="a name in configs/suites that has files to submit")
    parser.add_argument("--student", required=True, help="folder or hub id of a student of general distillation")
    parser.add_argument("--teacher", help="the teacher (by default the one that the student was distilled from)")
    parser.add_argument("--data", type=Path, default=Path("data/clue"), help="folder of TASK/train.json and the like")
    parser.add_argument("--output", type=Path, required=True, help="folder for the runs and the submission")
    parser.add_argument("--ged", metavar="CONFIG", help="general distillation under the fine-tuned teacher as well")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", dest="overrides",
                        help="keys of every task's stages to change, for example stages.td2.epochs=2")  # fmt: skip
    return parser.parse_args(arguments)


def run_suite(options: argparse.Namespace, run: Run) -> int:
    """Run every step that is not done; return the exit code of the first that fails, or 0.

    Raise ValueError if no task is on this disk or a file cannot be packed.
    """
    suite = read_suite(options.suite)
    if not suite.files:
        raise ValueError(f"--suite {options.suite}: has no files to submit; use launch/evaluate_tasks.py")
    tasks, missing = find_tasks(suite.tasks, options.data)
    for sentence in missing:
        say(f"left out: {sentence}")
    if not tasks:
        raise ValueError(f"--data {options.data}: has none of the tasks {', '.join(suite.tasks)}")
    for name, task in tasks.items():
        for command in task_commands(name, task, suite, options):
            say(f"runs: {' '.join(command[1:])}")
            if code := run(command):
                return code
    submission = options.output / "submission"
    zipped = options.output / f"{options.suite}.zip"
    lacking = [*missing, *(f"{name} has no test file in {Path(task.train).parent}" for name, task in tasks.items()
                           if file_to_predict(task) is None)]  # fmt: skip
    if submission.is_dir():
        lacking += pack_files(suite, submission, zipped)
        say(f"packed: {zipped}")
    for sentence in lacking:
        say(f"to submit: {sentence}")
    print(_table(options, suite, tasks, missing))
    return 0


def task_commands(name: str, task: TaskConfig, suite: Suite, options: argparse.Namespace) -> list[list[str]]:
    """Return the commands of a task: its stages, and its predictions if it has a test file and they are not there.

    The stages' is given even if they are done: it ends at once, or refuses what the run was not made with.
    """
    run, answers = options.output / name, options.output / "submission" / suite.files[name]
    changes = [f"student={json.dumps(options.student)}"]
    if teacher := options.teacher or teacher_of(options.student):
        changes.append(f"teacher.path={json.dumps(teacher)}")
    changes += [f"task.{part}={json.dumps(getattr(task, part))}" for part in ("train", "dev")]
    changes += [f"stages.ged={json.dumps({'config': options.ged})}"] if options.ged else []
    launcher = str(Path(sys.executable).with_name("deepspeed"))
    commands = [[launcher, "--num_gpus", str(max(1, torch.cuda.device_count())), "launch/td.py", "--config",
                 str(TASK_FOLDER / f"{name}.json"), "--run", str(run), "--set", *changes,
                 *options.overrides]]  # fmt: skip
    if (test := file_to_predict(task)) and not answers.is_file():
        run.mkdir(parents=True, exist_ok=True)
        write_durably(run / "task.json", json.dumps({"task": task.model_dump(mode="json")}, ensure_ascii=False))
        commands.append([sys.executable, "launch/predict.py", "--model", str(run / "td2/model"), "--task",
                         str(run / "task.json"), "--input", str(test), "--output", str(answers),
                         "--form", "clue"])  # fmt: skip
    return commands


def teacher_of(student: str) -> str | None:
    """Return the teacher that a published student names, if it is one of these."""
    path = Path(student) / PROVENANCE
    if not path.is_file():
        return None
    made: dict[str, dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))
    return (made.get("teacher") or {}).get("path")


def _table(options: argparse.Namespace, suite: Suite, tasks: dict[str, TaskConfig], missing: list[str]) -> str:
    scores = {}
    for name, task in tasks.items():
        found = json.loads((options.output / name / "td2/scores.json").read_text(encoding="utf-8"))
        scores[name] = found[task.scored_by]
    table = render_suite(options.suite, suite, {Path(options.student).name: scores}, {}, missing)
    write_durably(options.output / "scores.md", table)
    return table


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit code."""
    accept_any_terminal()
    options = parse_arguments(arguments)
    try:
        return run_suite(options, lambda command: subprocess.run(command, cwd=ROOT, check=False).returncode)
    except ValueError as error:
        say(f"error: {error}")
        return REFUSED


if __name__ == "__main__":
    sys.exit(main())
