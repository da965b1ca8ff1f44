"""Stages read augmented texts, and a run goes on only with the same ones."""

import json
from argparse import Namespace
from pathlib import Path

import pytest

from launch import td
from launch.command_line.config_file import read_strictly
from launch.evaluation.config import read_task_file
from launch.job.world import World
from launch.stages.chain import inputs_of
from launch.stages.config import TaskRunConfig

STAGE = {"optimizer": {"lr": 1e-3}}
LABELS, SOFT = {"type": "labels"}, {"type": "soft_labels"}
ENGINE = {"train_batch_size": 4, "train_micro_batch_size_per_gpu": 4}


@pytest.fixture
def values(task_values, encoder, tmp_path):
    path = tmp_path / "augmented.jsonl"
    path.write_text("".join(json.dumps({"sentence": one, "augmented": True}) + "\n" for one in ("甲", "乙")))
    return {
        "task": task_values | {"augmented": str(path)},
        "teacher": {"path": encoder},
        "student": encoder,
        "stages": {"ft": STAGE | {"objective": [LABELS]}, "td2": STAGE | {"objective": [LABELS, SOFT]}},
        "deepspeed": ENGINE,
    }


def prepare(values, folder, capsys):
    """What is said before training."""
    (folder / "t.json").write_text(json.dumps(values))
    td.prepare(Namespace(config=folder / "t.json", overrides=[]), folder / "run", World())
    return capsys.readouterr().err


def test_their_number_is_said_or_that_no_stage_reads_them(values, tmp_path, capsys):
    said = prepare(values, tmp_path, capsys)
    assert "t: 2 augmented examples, without their labels, for stages with a teacher" in said
    alone = values | {"stages": {"ft": values["stages"]["ft"]}}
    said = prepare(alone, tmp_path, capsys)
    assert "task.augmented and task.unlabelled are not read: no stage of td1, td2 and elastic has a teacher" in said


def test_a_run_is_of_the_texts_that_its_stages_read(values):
    before = inputs_of(read_strictly(TaskRunConfig, values))["files"]
    assert set(before) == {"train", "dev", "augmented"}
    Path(values["task"]["augmented"]).write_text('{"sentence": "丙"}\n')
    assert inputs_of(read_strictly(TaskRunConfig, values))["files"]["augmented"] != before["augmented"]
    alone = values | {"stages": {"ft": values["stages"]["ft"]}}
    assert set(inputs_of(read_strictly(TaskRunConfig, alone))["files"]) == {"train", "dev"}


def test_evaluations_and_predictions_do_not_see_them(values, tmp_path):
    (tmp_path / "t.json").write_text(json.dumps(values))
    task = read_task_file(str(tmp_path / "t.json"), "--tasks")
    assert task.augmented is None and task.unlabelled is None
