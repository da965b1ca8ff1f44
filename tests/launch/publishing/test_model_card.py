"""The card says where weights come from, and takes nothing for a loss that is none."""

import pytest
import torch

from launch.distillation.config import read_run_config
from launch.publishing.model_card import model_card
from launch.publishing.student_folder import publish
from pretrain.checkpoints.checkpoint import TrainingState

FACTS = {
    "corpus": {"tokens": 10, "documents": 1, "fingerprint": "f", "sources": []},
    "teacher": {"path": "large", "fingerprint": "e"},
    "unreached_parameters": {"small": ["pooler.dense.weight"]},
    "ran_on": [
        {"step": 0, "device": "8 x NVIDIA H200", "teacher": "bfloat16", "students": "float16"},
        {"step": 3, "device": "CPU", "teacher": None, "students": "float32"},
        {"step": 6, "device": "after the checkpoint", "teacher": None, "students": "float32"},
    ],
}
METRICS = {"step": 6, "small/loss": 0.5, "small/learning_rate": 1e-3, "small/grad_norm": 1.0, "small/skipped_steps": 0}


@pytest.mark.parametrize(
    ("init", "start", "unreached"),
    [
        ({"layers": "uniform"}, "widths differ; layers: the teacher's, evenly spread |", "a pooler: not here"),
        ({"layers": "last"}, "layers: the teacher's last ones |", "a pooler: not here"),
        ({"layers": [1, 3]}, "layers: the teacher's 1, 3 |", "a pooler: not here"),
        ({"embeddings": "scratch"}, "| start | embeddings: random; layers: random |", "as initialised (random)"),
        ({"student": "students/x"}, "| start | all weights: those of `students/x` |", "that this one began as"),
    ],
)
def test_the_start_is_what_the_weights_began_as(config_file, init, start, unreached):
    config = read_run_config(config_file).model_dump(mode="json")
    config["students"][0]["init"] |= {"embeddings": "teacher", "layers": "scratch", "student": None} | init
    state = TrainingState(step=6, rows=48, tokens=768, seconds=1.0)
    card = model_card("small", config, FACTS, state, [METRICS | {"small/probe/neighbour_accuracy": 0.3}])
    assert start in card and unreached in card
    assert ("and those of `students/x`, see its card" in card) == ("student" in init), "what that one was trained on"
    assert "distilled from `large` on" in card and "| licence of the weights | not stated: the terms of" in card
    rows = card.split("| term | value |")[1].split("\n\n")[0].splitlines()
    assert rows[2:] == ["| loss | 0.5000 |"]
    machines = "8 x NVIDIA H200: teacher in bfloat16, student in float16; from step 3 on CPU: student in float32"
    assert f"| computed on | {machines} |" in card


def test_what_it_is_called_elsewhere_and_how_its_vectors_are_made(config_file):
    config = read_run_config(config_file).model_dump(mode="json")
    state = TrainingState(step=6, rows=48, tokens=768, seconds=1.0)
    card = model_card("small", config, FACTS, state, [METRICS], "someone/large", "apache-2.0")
    head = card.split("---")[1].splitlines()
    assert {"base_model: someone/large", "license: apache-2.0", "pipeline_tag: feature-extraction"} < set(head)
    for path, said in (("hub/large", "base_model: hub/large"), ("/a/local/large", "")):
        named = model_card("small", config, FACTS | {"teacher": FACTS["teacher"] | {"path": path}}, state, [METRICS])
        assert ("base_model" in named, said in named) == (bool(said), True)
    assert "`someone/large`, weights e" in card and "| licence of the weights | apache-2.0 |" in card
    assert "max_length=16" in card and "There is no trained pooler: `pooler_output` is of weights drawn" in card
    assert "Its last layer was not trained as a whole" not in card
    cut = FACTS | {"unreached_parameters": {"small": ["encoder.layer.3.output.dense.weight"]}}
    card = model_card("small", config, cut, state, [METRICS])
    assert "Its last layer was not trained as a whole" in card and "pooler_output" not in card


def test_its_code_runs_in_plain_transformers(finished_run, tmp_path, capsys):
    publish(finished_run, "small", tmp_path / "small")
    code = (tmp_path / "small/README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    made: dict[str, torch.Tensor] = {}
    exec(code.replace("FOLDER", str(tmp_path / "small")), made)
    assert made["vectors"].shape == (1, 12)
