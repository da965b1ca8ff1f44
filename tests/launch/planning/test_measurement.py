"""A step is timed by its parts, for every kind of run, from configs alone."""

import shutil

import pytest
import torch
from transformers import AutoConfig

from launch.distillation.config import read_run_config
from launch.planning.measurement import StepTime, time_step


def test_a_step_is_the_sum_of_its_parts():
    assert StepTime(2, 0.5, (0.25, 0.25), 3.0).seconds(4) == 7.0


@pytest.mark.parametrize("objective", [{"type": "hidden_states"}, {"type": "mlm"}, {"type": "tinybert"}])
def test_every_part_is_timed_without_weights(config_file, config_values, tmp_path, objective):
    AutoConfig.from_pretrained(config_values["teacher"]["path"]).save_pretrained(tmp_path / "sizes")
    assert [one.name for one in (tmp_path / "sizes").iterdir()] == ["config.json"]
    students = [config_values["students"][0] | {"objective": [objective]}]
    corpus = config_values["corpus"] | ({"masking": {"prob": 0.15}} if objective["type"] == "mlm" else {})
    config = read_run_config(config_values | {"students": students, "corpus": corpus})
    config = config.model_copy(update={"teacher": config.teacher.model_copy(update={"path": str(tmp_path / "sizes")})})
    found = time_step(config, torch.device("cpu"))
    assert found.rows == config.deepspeed.micro_rows(1) == 4
    assert found.teacher > 0 and len(found.students) == 1 and found.students[0] > 0 and found.optimizers > 0
    shutil.rmtree(tmp_path / "sizes")


def test_a_run_without_a_teacher_is_timed(config_values):
    student = {**config_values["students"][0], "objective": [{"type": "mlm"}], "init": {"embeddings": "scratch"}}
    student |= {"architecture": {"model_type": "bert"}}
    corpus = config_values["corpus"] | {"masking": {"prob": 0.15}}
    config = read_run_config(config_values | {"teacher": None, "students": [student], "corpus": corpus})
    found = time_step(config, torch.device("cpu"), (300, 0))
    assert found.teacher == 0 and found.students[0] > 0
