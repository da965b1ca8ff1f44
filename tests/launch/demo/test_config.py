"""The demo makes as many steps as a machine has the time for, and says why."""

import json

import pytest
import torch

from launch.demo import config as demo_config
from launch.demo.config import LEAST_STEPS, choose_steps, explain, main, with_steps
from launch.distillation.config import read_run_config
from launch.planning.measurement import StepTime


@pytest.mark.parametrize(
    ("step_seconds", "steps"),
    [
        (0.001, 420),
        (0.9, 420),
        (2.0, 195),
        (4.0, 75),
        (7.2, LEAST_STEPS),
        (1000.0, LEAST_STEPS),
    ],
)
def test_a_slower_machine_makes_fewer_steps(step_seconds, steps):
    assert choose_steps(step_seconds, 420) == steps


def test_checkpoints_and_scores_are_spread_over_the_steps_there_are(config_file):
    config = with_steps(read_run_config(config_file), 41).training
    assert (config.total_steps, config.save_every_steps, config.log_every_steps) == (41, 21, 2)
    assert with_steps(read_run_config(config_file), 6).training.log_every_steps == 1


def test_what_was_chosen_is_said(monkeypatch):
    monkeypatch.setattr(demo_config, "device_name", lambda device: "CPU, old, 2 threads")
    monkeypatch.setattr(demo_config, "explain_native", lambda device: " (no native bfloat16)")
    slow = explain(3.0, 40, 420, torch.device("cpu"))
    assert slow == (
        "demo: CPU, old, 2 threads (no native bfloat16) makes a step in 3.00 s: "
        "40 steps in about 2.0 minutes, not the 420 of a faster machine"
    )
    assert explain(0.1, 420, 420, torch.device("cpu")).endswith(
        "makes a step in 0.10 s: 420 steps in about 0.7 minutes"
    )


def test_the_file_is_a_runs_configuration_and_stays(config_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo_config, "time_step", lambda config, device: StepTime(1, 1e9, (), 0.0))
    output = tmp_path / "demo/config.json"
    assert main(["--config", str(config_file), "--output", str(output)]) == 0
    assert read_run_config(output).training.total_steps == 6, "a short run stays short"
    assert "makes a step in" in capsys.readouterr().out
    output.write_text(json.dumps(json.loads(output.read_text()) | {"about": "mine"}))
    assert main(["--config", str(config_file), "--output", str(output)]) == 0
    assert "already there" in capsys.readouterr().out and read_run_config(output).about == "mine"


def test_a_configuration_that_cannot_be_read_is_refused(tmp_path, capsys):
    assert main(["--config", str(tmp_path / "none.json"), "--output", str(tmp_path / "o.json")]) == 2
    assert "error: " in capsys.readouterr().err and not (tmp_path / "o.json").exists()
