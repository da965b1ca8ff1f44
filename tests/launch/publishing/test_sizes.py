"""Every size of an elastic student is published as an ordinary model, which answers as the size did in training."""

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForMaskedLM

from launch.distillation.config import read_run_config
from launch.distillation.session import distil_alone
from launch.publish import main
from launch.publishing.student_folder import publish
from pretrain.elastic.size import Size
from pretrain.training.metrics import read_metrics
from tests.pretrain.tiny import student_config

ELASTIC = {"depths": [1], "feed_forward": [8]}
SIZES = ["2x20", "2x8", "1x20", "1x8"]


def run_of(values: dict[str, Any], run: Path, **student: Any) -> Path:
    students = [student_config(elastic=ELASTIC, **student), student_config("plain", **student)]
    students = [one.model_dump(mode="json") for one in students]
    training = {"total_steps": 2, "log_every_steps": 1}
    distil_alone(values | {"students": students, "training": training}, run)
    return run


@pytest.fixture(scope="module")
def elastic_run(config_values, tmp_path_factory) -> Path:
    return run_of(config_values, tmp_path_factory.mktemp("runs") / "elastic")


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr("sys.argv", ["publish.py", *map(str, arguments)])
    main()


def live(run: Path, size: str) -> torch.Tensor:
    outputs = load_file(run / "checkpoints/step_2/small/outputs.safetensors")
    return outputs["last_hidden_state" if size == "2x20" else f"{size}/last_hidden_state"]


def test_all_sizes_are_ordinary_models_that_answer_as_in_training(elastic_run, tmp_path, monkeypatch, capsys):
    output = tmp_path / "students"
    run_main(monkeypatch, "--run", elastic_run, "--student", "small", "--all-sizes", "--output", output)
    assert sorted(path.name for path in output.iterdir()) == sorted(SIZES)
    assert capsys.readouterr().out.count("answers as in training") == 4
    answers = []
    for size in SIZES:
        model = AutoModel.from_pretrained(output / size).eval()
        assert f"{model.config.num_hidden_layers}x{model.config.intermediate_size}" == size
        ids = load_file(elastic_run / "checkpoints/step_2/small/outputs.safetensors")["input_ids"]
        answers.append(model(input_ids=ids).last_hidden_state)
        torch.testing.assert_close(answers[-1], live(elastic_run, size), rtol=0, atol=1e-5)
    assert not any(torch.equal(one, other) for one, other in combinations(answers, 2))


def test_without_a_size_the_largest_is_published(elastic_run, tmp_path):
    assert publish(elastic_run, "small", tmp_path / "whole") < 1e-5
    assert publish(elastic_run, "small", tmp_path / "named", size=Size(2, 20)) < 1e-5
    whole, named = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "named"))
    theirs = load_file(elastic_run / "checkpoints/step_2/small/model/model.safetensors")
    assert whole.keys() == named.keys() == {name for name in theirs if "pooler" not in name}
    assert all(torch.equal(whole[name], theirs[name]) and torch.equal(named[name], theirs[name]) for name in whole)


def test_the_card_and_the_settings_are_those_of_the_size(elastic_run, tmp_path):
    publish(elastic_run, "small", tmp_path / "1x8", size=Size(1, 8))
    card, last = (tmp_path / "1x8/README.md").read_text(encoding="utf-8"), read_metrics(elastic_run)[-1]
    for line in (
        "# small 1x8",
        "| shape | bert: 1 layers x 12, 4 heads, feed-forward 8 |",
        "| size | 1x8 (layers x feed-forward) of the elastic student small: one run trained this and 2x20, 2x8, 1x20",
        "--student small --size 1x8 --output students/small/1x8",
        f"| loss | {last['small/loss/1x8']:.4f} |",
    ):
        assert line in card
    assert "hidden/2" not in card, "a term of the largest"
    made = json.loads((tmp_path / "1x8/distillation.json").read_text())
    assert (made["num_layers"], made["intermediate_size"], made["name"]) == (1, 8, "small")
    again = read_run_config(tmp_path / "1x8/training.json").students[0]
    assert again == read_run_config(elastic_run / "config.json").students[0], "the whole student is trained again"


def test_the_card_of_the_largest_has_its_own_loss_and_terms(elastic_run, tmp_path):
    publish(elastic_run, "small", tmp_path / "2x20")
    card, last = (tmp_path / "2x20/README.md").read_text(encoding="utf-8"), read_metrics(elastic_run)[-1]
    assert f"| loss | {last['small/loss/2x20']:.4f} |" in card and "| hidden/2 |" in card and "loss/" not in card
    assert "| relation/query |" in card
    assert last["small/loss"] != last["small/loss/2x20"]


def test_what_no_objective_reached_is_named_as_in_the_published_model(config_values, tmp_path):
    relations = [{"type": "minilm_v2", "num_relation_heads": 4}]
    run = run_of(config_values, tmp_path / "run", objective=relations)
    publish(run, "small", tmp_path / "1x8", size=Size(1, 8))
    card = (tmp_path / "1x8/README.md").read_text(encoding="utf-8")
    assert "- `encoder.layer.0.intermediate.dense.weight`" in card and "encoder.layer.1" not in card


def test_a_head_and_a_pooling_are_published_with_every_size(config_values, tmp_path):
    corpus = config_values["corpus"] | {"rows": "texts", "masking": {"prob": 0.3}}
    objective = [{"type": "mlm"}, {"type": "sentence", "pooling": "mean"}]
    run = run_of(config_values | {"corpus": corpus}, tmp_path / "run", objective=objective)
    kept = load_file(run / "checkpoints/step_2/small/training.safetensors")
    maps = {}
    for size in (Size(2, 20), Size(1, 8)):
        folder = tmp_path / str(size)
        publish(run, "small", folder, size=size)
        model = AutoModelForMaskedLM.from_pretrained(folder)
        assert model.config.num_hidden_layers == size.num_layers
        maps[str(size)] = load_file(folder / "2_Dense/model.safetensors")["linear.weight"]
    assert torch.equal(maps["2x20"], kept["objectives.1.projection.weight"])
    assert torch.equal(maps["1x8"], kept["inner.objectives.1.1.projection.weight"])
    assert not torch.equal(maps["2x20"], maps["1x8"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--student", "small", "--size", "1x9"], "small has no size 1x9; its sizes: 2x20, 2x8, 1x20, 1x8"),
        (["--student", "small", "--size", "tiny"], "size 'tiny': wanted LAYERSxFEED_FORWARD, such as 2x600"),
        (["--student", "plain", "--size", "1x8"], "plain is not elastic and has no size 1x8: leave out --size"),
        (["--student", "plain", "--all-sizes"], "has no elastic student plain: leave out --all-sizes"),
        (["--student", "small", "--size", "1x8", "--all-sizes"], "not allowed with argument"),
        (["--student", "small", "--all-sizes", "--push", "a/b"], "publish one --size at a time to it"),
    ],
)
def test_what_cannot_be_published_is_refused(elastic_run, tmp_path, monkeypatch, capsys, arguments, message):
    with pytest.raises(SystemExit):
        run_main(monkeypatch, "--run", elastic_run, *arguments, "--output", tmp_path / "out")
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_sizes_are_of_a_runs_student(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run_main(monkeypatch, "--push", "a/b", "--size", "1x8", "--output", tmp_path)
    assert "--size and --all-sizes are about the student of a run" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run_main(monkeypatch, "--run", tmp_path, "--student", "a", "--all-sizes", "--output", tmp_path / "out")
    assert "not a run folder" in capsys.readouterr().err


def test_all_sizes_go_to_a_new_folder(elastic_run, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run_main(monkeypatch, "--run", elastic_run, "--student", "small", "--all-sizes", "--output", tmp_path)
    assert "is already there; publish to a new folder" in capsys.readouterr().err
