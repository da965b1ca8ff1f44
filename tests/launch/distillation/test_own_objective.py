"""An objective of another package: configured, checked, trained, resumed and published like the built-in ones."""

import json

import pytest

from launch.distillation.config import read_run_config
from launch.publishing.student_folder import publish
from pretrain.training.metrics import read_metrics
from tests.processes import run_script

MODULE = '''
"""The student's last states, pooled, against the teacher's: a loss that this project does not have."""

from typing import Annotated

import torch
from pydantic import Field

from pretrain.models.encoder import Reads, real_tokens
from pretrain.objectives.objective import Objective, ObjectiveConfig, token_weights


class PooledConfig(ObjectiveConfig):
    power: Annotated[float, Field(gt=0)] = 2.0

    def problems(self, teacher, student):
        if self.power > student.hidden_size:
            yield "power", f"must be at most the student's width ({student.hidden_size}), got {self.power}"

    def build(self, teacher, student):
        return Pooled(self, teacher, student)


class Pooled(Objective):
    def __init__(self, config, teacher, student):
        super().__init__()
        self.weight, self.power = config.weight, config.power
        self.layers = teacher.num_layers, student.num_layers
        self.projection = torch.nn.Linear(student.hidden_size, teacher.hidden_size, bias=False)
        self.teacher_reads = Reads(hidden_states=frozenset({teacher.num_layers}))
        self.student_reads = Reads(hidden_states=frozenset({student.num_layers}))

    def forward(self, teacher, student, batch):
        weights = token_weights(real_tokens(batch)).unsqueeze(-1)
        target = (teacher.hidden_states[self.layers[0]].float() * weights).sum(1)
        output = (self.projection(student.hidden_states[self.layers[1]]).float() * weights).sum(1)
        return {"pooled": (output - target).abs().pow(self.power).mean()}
'''
TYPE = "my_losses.pooled:PooledConfig"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package beside the run, on the path as an installed one is."""
    folder = tmp_path / "site/my_losses"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "pooled.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(folder.parent))
    return folder.parent


@pytest.fixture
def config(config_values, tmp_path):
    """Its first student learns from that objective alone."""
    values = json.loads(json.dumps(config_values))
    values["students"][0]["objective"] = [{"type": TYPE, "power": 1.5}]
    values["training"] |= {"save_every_steps": 2}
    path = tmp_path / "own.json"
    path.write_text(json.dumps(values))
    return path


def test_its_keys_are_checked_as_strictly(package, config):
    decoded = read_run_config(config)
    assert decoded.students[0].objective[0].power == 1.5 and decoded.students[0].objective[0].weight == 1.0
    again = json.loads(decoded.model_dump_json())["students"][0]["objective"][0]
    assert again == {"type": TYPE, "weight": 1.0, "power": 1.5}
    with pytest.raises(ValueError) as error:
        read_run_config(config, ["students.0.objective.0.power=0", "students.0.objective.0.pow=2"])
    assert "students.0.objective.0.power: Input should be greater than 0, got 0" in str(error.value)
    assert "students.0.objective.0.pow: unknown key" in str(error.value)
    with pytest.raises(ValueError, match=r"students.0.objective.0: .*cannot be imported: No module named 'nowhere'"):
        read_run_config(config, ["students.0.objective.0.type=nowhere:Config"])
    with pytest.raises(ValueError, match=r"must be a subclass of pretrain[.]objectives[.]objective[.]ObjectiveConfig"):
        read_run_config(config, ["students.0.objective.0.type=json:JSONDecoder"])
    with pytest.raises(ValueError, match="must define `build`, which returns its objective"):
        read_run_config(config, ["students.0.objective.0.type=pretrain.objectives.objective:ObjectiveConfig"])


@pytest.mark.job
def test_it_trains_resumes_to_the_same_bits_and_is_published(package, config, tmp_path):
    def launch(run, *arguments):
        environment = {"PYTHONPATH": str(package)}
        return run_script("launch/gd.py", "--run", str(tmp_path / run), *arguments, environment=environment)

    whole = launch("whole", "--config", str(config))
    assert whole.returncode == 0, whole.stderr
    losses = [line["small/pooled"] for line in read_metrics(tmp_path / "whole")]
    assert len(losses) == 3 and losses[-1] < losses[0]

    refused = launch("refused", "--config", str(config), "--set", "students.0.objective.0.power=99")
    assert refused.returncode == 2
    assert "students.0.objective.0.power: must be at most the student's width (12), got 99.0" in refused.stderr

    broken = tmp_path / "whole/checkpoints/step_6/state.json"
    broken.write_text("damaged")
    (tmp_path / "whole/done.json").unlink()
    again = launch("whole")
    assert again.returncode == 0 and "resuming from" in again.stderr, again.stderr
    assert [line["small/pooled"] for line in read_metrics(tmp_path / "whole")] == losses
    assert publish(tmp_path / "whole", "small", tmp_path / "published") < 1e-5
    assert TYPE in (tmp_path / "published/distillation.json").read_text()
