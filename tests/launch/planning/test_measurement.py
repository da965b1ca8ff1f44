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


@pytest.mark.parametrize("sample", ["all", "sandwich"])
def test_all_sizes_of_an_elastic_student_are_timed(config_values, sample):
    elastic = {"depths": [1, 2], "feed_forward": [10, 20], "sample": sample}
    config = read_run_config(config_values | {"students": [config_values["students"][0] | {"elastic": elastic}]})
    found = time_step(config, torch.device("cpu"))
    assert found.teacher > 0 and found.students[0] > 0


@pytest.mark.parametrize(
    ("architecture", "objectives", "corpus"),
    [
        ("bert", [{"type": "mlm"}], {}),
        ("electra", [{"type": "replaced_tokens", "generator": {"width_ratio": 0.5}}], {}),
        ("albert", [{"type": "mlm"}, {"type": "sentence_order"}], {"rows": "pairs", "order": "swapped_half"}),
    ],
)
def test_a_run_without_a_teacher_is_timed(config_values, architecture, objectives, corpus):
    student = {**config_values["students"][0], "objective": objectives, "init": {"embeddings": "scratch"}}
    student |= {"architecture": {"model_type": architecture}}
    corpus = config_values["corpus"] | {"masking": {"prob": 0.15}} | corpus
    config = read_run_config(config_values | {"teacher": None, "students": [student], "corpus": corpus})
    found = time_step(config, torch.device("cpu"), (300, 0))
    assert found.teacher == 0 and found.students[0] > 0
