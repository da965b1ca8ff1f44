"""A student on a whole benchmark: which commands run, in which order, and what is packed."""

import json
from argparse import Namespace
from pathlib import Path
from zipfile import ZipFile

import pytest

from launch.evaluation.suites import find_tasks, read_suite
from launch.prediction.suite_run import main, parse_arguments, run_suite, task_commands, teacher_of

SUITE = read_suite("nlpcc2020")


@pytest.fixture
def options(tmp_path):
    for path in ("csl/train.json", "csl/dev.json", "csl/test.json", "cluener/train.json", "cluener/dev.json"):
        (tmp_path / "data" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / path).touch()
    return Namespace(suite="nlpcc2020", student="students/small", teacher=None, data=tmp_path / "data",
                     output=tmp_path / "out", ged=None, overrides=["stages.td2.epochs=1"])  # fmt: skip


class Run:
    """Does what the commands would leave; the exit code of the command with this number is 3."""

    def __init__(self, fails: int = -1) -> None:
        self.commands, self.fails = [], fails

    def __call__(self, command):
        self.commands.append(command)
        if len(self.commands) - 1 == self.fails:
            return 3
        if "launch/td.py" in command:
            folder = Path(command[command.index("--run") + 1]) / "td2"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "scores.json").write_text('{"accuracy": 0.5, "entity_macro_f1": 0.25}')
        else:
            path = Path(command[command.index("--output") + 1])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps({"id": n, "label": "1"}) + "\n" for n in range(3)))
        return 0


def test_every_task_is_distilled_predicted_and_packed(options, capsys):
    run = Run(fails=2)
    assert run_suite(options, run) == 3, "a command that fails ends the run"
    assert ["launch/td.py" in command for command in run.commands] == [True, True, False]
    again = Run()
    assert run_suite(options, again) == 0
    stages, predictions = run.commands[:2], ["launch/predict.py"]
    assert again.commands[:2] == stages and [one[1] for one in again.commands[2:]] == predictions
    assert run_suite(options, third := Run()) == 0 and third.commands == stages, "td.py knows what is done, and of what"
    options.student = "students/other"
    assert run_suite(options, refused := Run(fails=0)) == 3 and 'student="students/other"' in refused.commands[0]
    with ZipFile(options.output / "nlpcc2020.zip") as archive:
        assert archive.namelist() == ["csl_predict.json"]
    said = capsys.readouterr()
    assert "left out: cmrc2018 is not on this disk" in said.err and "cluener has no test file in" in said.err
    assert "to submit: csl_predict.json has 3 answers, but the test set 3,000" in said.err
    assert "| **small** | 25.00 | 50.00 | 37.50 | here |" in said.out
    assert (options.output / "scores.md").read_text() in said.out


def test_commands_say_where_everything_lies(options, tmp_path):
    (name, task), *_ = reversed(find_tasks(SUITE.tasks, options.data)[0].items())
    student = tmp_path / "student"
    student.mkdir()
    (student / "distillation.json").write_text('{"teacher": {"path": "a/teacher"}}')
    options.student, options.ged = str(student), "configs/4l312d.json"
    train, predict = task_commands(name, task, SUITE, options)
    changes = train[train.index("--set") + 1 :]
    assert f'student="{student}"' in changes and 'teacher.path="a/teacher"' in changes
    assert f'task.train="{options.data}/csl/train.json"' in changes and changes[-1] == "stages.td2.epochs=1"
    assert 'stages.ged={"config": "configs/4l312d.json"}' in changes
    written = json.loads(Path(predict[predict.index("--task") + 1]).read_text())
    assert written["task"]["train"] == f"{options.data}/csl/train.json" and "--form" in predict
    assert teacher_of("hfl/rbt4-h312") is None


def test_what_cannot_be_meant_is_refused(tmp_path, capsys):
    flags = ["--student", "s", "--output", str(tmp_path / "out"), "--data", str(tmp_path)]
    assert main(["--suite", "rbt4", *flags]) == 2
    assert "--suite rbt4: has no files to submit; use launch/evaluate_tasks.py" in capsys.readouterr().err
    assert main(["--suite", "nlpcc2020", *flags]) == 2
    assert f"--data {tmp_path}: has none of the tasks cluener, cluewsc2020, csl, cmrc2018" in capsys.readouterr().err
    assert parse_arguments(["--suite", "x", "--student", "s", "--output", "o", "--set", "a=1", "b=2"]).overrides == [
        "a=1",
        "b=2",
    ]
