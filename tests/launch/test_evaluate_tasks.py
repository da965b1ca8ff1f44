"""The real command on tiny models: cells made once, shared by workers, picked up after a stop; refusals."""

import gc
import json
import re
import shutil
import signal
import time
import weakref
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from launch import evaluate_tasks
from launch.evaluation import cells, workers
from launch.evaluation.cells import complete_models, make_cells
from launch.evaluation.config import read_evaluation
from launch.evaluation.workers import run_workers
from pretrain import durable
from tasks.fine_tuning import FineTuned
from tests.processes import Script, run_script


@pytest.fixture(scope="module")
def arguments(teacher_folder, tmp_path_factory):
    """Two names of one model, one task, two rates, two seeds."""
    folder = tmp_path_factory.mktemp("evaluation")
    records = [{"sentence": f"{first} {rest}", "label": first} for first in "天地" for rest in "玄黄宇宙洪荒日月盈昃"]
    (folder / "data.json").write_text("".join(json.dumps(one) + "\n" for one in records))
    task = {"name": "t", "kind": "sentence", "train": str(folder / "data.json"), "dev": str(folder / "data.json"),
            "row_tokens": 16}  # fmt: skip
    (folder / "t.json").write_text(json.dumps({"task": task}))
    config = {
        "fine_tuning": {"learning_rates": [1e-3, 1e-2], "num_choosing_seeds": 1, "epochs": 2},
        "training": {"log_every_steps": 1, "seed": 3},
        "deepspeed": {"train_batch_size": 4, "train_micro_batch_size_per_gpu": 4, "torch_autocast": {"enabled": False}},
    }
    (folder / "config.json").write_text(json.dumps(config))
    models = [f"large={teacher_folder}", f"small={teacher_folder}"]
    return ["--models", *models, "--tasks", str(folder / "t.json"), "--config", str(folder / "config.json")]


def evaluate(*arguments: str) -> tuple[int, str, str]:
    done = run_script("launch/evaluate_tasks.py", *arguments)
    return done.returncode, done.stdout, done.stderr


def made_cells(output):
    return {path: path.stat().st_mtime_ns for path in output.glob("cells/*/*/*/scores.json")}


@pytest.mark.job
def test_stopped_and_shared_and_the_same_scores_for_the_same_weights(arguments, tmp_path):
    output = tmp_path / "out"
    files = tmp_path / "stdout", tmp_path / "stderr"
    stopped = Script("launch/evaluate_tasks.py", [*arguments, "--seeds", "2", "--output", str(output)], *files)
    while not made_cells(output):
        assert stopped.poll() is None, files[1].read_text()
        time.sleep(0.01)
    stopped.send_signal(signal.SIGTERM)
    _, stderr = stopped.communicate()
    assert stopped.returncode == 75 and "stopped; run again to resume" in stderr, stderr
    before = made_cells(output)
    assert 0 < len(before) < 6
    code, stdout, stderr = evaluate(*arguments, "--seeds", "2", "--output", str(output), "--workers", "2")
    assert code == 0, stderr
    assert "20 training examples, 20 development examples; " in stderr
    assert "; 20 development texts that are also in training" in stderr
    assert len(made_cells(output)) == 6 and before.items() <= made_cells(output).items()
    large, small = json.loads((output / "results.json").read_text())["models"]
    assert large["tasks"] == small["tasks"] and len(large["tasks"]["t"]["scores"]) == 2
    assert " Examples to train on and to score: t 20 and 20." in (output / "results.md").read_text()
    assert "| large |" in stdout and "| small |" in stdout and not list(output.glob("cells/*/*/*/run"))
    made = made_cells(output)
    code, _, stderr = evaluate(*arguments, "--seeds", "2", "--output", str(output), "--set", "fine_tuning.epochs=3")
    assert code == 2 and "was made with another fine_tuning.epochs; give another --output" in stderr
    clipping = "deepspeed.gradient_clipping=0"
    code, _, stderr = evaluate(*arguments, "--seeds", "2", "--output", str(output), "--set", clipping)
    assert code == 2 and "was made with another gradient_clipping; give another --output" in stderr
    path = next(output.glob("cells/large/*/*/made_with.json"))
    whole = path.read_text()
    path.write_text(whole[:9])
    code, _, stderr = evaluate(*arguments, "--seeds", "2", "--output", str(output))
    assert code == 2 and "made_with.json: not written by an evaluation; remove " in stderr
    older = json.loads(whole)  # as if two keys had come later
    del older["fine_tuning"]["head_lr_ratio"], older["task"]["window_stride"]
    path.write_text(json.dumps(older))
    code, _, _ = evaluate(*arguments, "--seeds", "1", "--output", str(output))
    assert code == 0 and made_cells(output) == made


@pytest.mark.job
def test_a_model_that_fails_is_shown_and_the_others_are_made(arguments, teacher_folder, tmp_path):
    model, output = shutil.copytree(teacher_folder, tmp_path / "other"), tmp_path / "out"
    weights = load_file(model / "model.safetensors")
    name = next(name for name in weights if name.endswith("word_embeddings.weight"))
    weights[name][1, 1] = float("nan")
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    models = ["--models", str(model), f"large={teacher_folder}"]
    code, _, stderr = evaluate(*arguments, *models, "--output", str(output), "--seeds", "1")
    assert code == 1, stderr
    assert re.search(r"worker-.*-0.log: the worker failed with exit code 2:", stderr)
    assert "error: other on t: " in stderr and f"{name} contains numbers that are not finite" in stderr
    assert "no results: not all runs of other, with which the others are compared, are finished" in stderr
    assert {path.parts[-4] for path in made_cells(output)} == {"large"} and len(made_cells(output)) == 2
    assert not (output / "results.json").exists()
    code, stdout, stderr = evaluate(
        *arguments, "--models", *reversed(models[1:]), "--output", str(output), "--seeds", "1"
    )
    assert code == 1 and "left out of the results: other; not all of their runs are finished" in stderr, stderr
    assert [one["name"] for one in json.loads((output / "results.json").read_text())["models"]] == ["large"]
    assert "| large |" in stdout and "other" not in stdout


class Engine:
    """A reference cycle, as DeepSpeed's engines are."""

    def __init__(self) -> None:
        self.itself = self


def test_a_model_for_which_memory_does_not_suffice_keeps_nothing_of_it_from_the_next(
    arguments, tmp_path, monkeypatch, capsys
):
    engines: list[weakref.ref[Engine]] = []

    def fine_tune(folder: Path, *_: object) -> FineTuned:
        assert all(engine() is None for engine in engines), "the one before still has its memory"
        engine = Engine()
        engines.append(weakref.ref(engine))
        folder.mkdir()
        if "large" in folder.parts:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return FineTuned({"accuracy": 0.5}, {"accuracy": 0.5}, 1, 1.0)

    monkeypatch.setattr(cells, "fine_tune", fine_tune)
    evaluation = read_evaluation(Path(arguments[6]), (), arguments[1:3], arguments[4:5], 1)
    gc.disable()
    try:
        with pytest.raises(ValueError, match=r"^large on t: CUDA out of memory$"):
            make_cells(evaluation, tmp_path, torch.device("cpu"), lambda: 0)
    finally:
        gc.enable()
    assert len(engines) == 3 and complete_models(evaluation, tmp_path).keys() == {"small"}
    assert "Traceback" in capsys.readouterr().err


def test_a_device_that_is_broken_is_blamed_on_no_other_model(arguments, tmp_path, monkeypatch):
    tried = Mock(side_effect=torch.AcceleratorError("CUDA error: an illegal memory access was encountered"))
    monkeypatch.setattr(cells, "fine_tune", tried)
    evaluation = read_evaluation(Path(arguments[6]), (), arguments[1:3], arguments[4:5], 1)
    with pytest.raises(torch.AcceleratorError, match="illegal memory access"):
        make_cells(evaluation, tmp_path, torch.device("cpu"), lambda: 0)
    assert tried.call_count == 1


def test_cells_that_another_machine_makes_are_waited_for(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluate_tasks, "run_workers", lambda *_: 0)
    models, tasks, config = arguments[1:3], arguments[4:5], Path(arguments[6])
    evaluation = read_evaluation(config, (), models, tasks, 1)
    assert evaluate_tasks.evaluate(evaluation, Namespace(output=tmp_path, workers=1), SimpleNamespace()) == 75
    assert "Waiting for runs on another machine; run this command again when they are" in capsys.readouterr().err


def test_a_folder_without_locks_is_used_by_one_worker_with_a_warning(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr(durable.fcntl, "flock", Mock(side_effect=OSError(95, "Operation not supported")))
    monkeypatch.setattr(workers, "_start", lambda *_: pytest.fail("a worker was started"))
    evaluation = read_evaluation(Path(arguments[6]), (), arguments[1:3], arguments[4:5], 1)
    message = r"its file system has no locks \(Operation not supported\), so each of 2 workers .*; give --workers 1, or"
    with pytest.raises(ValueError, match=message):
        run_workers(evaluation, tmp_path, 2, None)
    said = pytest.warns(UserWarning, match=r"its file system has no locks \(Operation not supported\); make sure")
    with said, cells.claimed(tmp_path / "group") as mine:
        assert mine


@pytest.mark.job
def test_what_cannot_be_meant_is_refused(arguments, tmp_path, teacher_folder):
    def refused(*more: str) -> str:
        code, _, stderr = evaluate(*arguments, "--output", str(tmp_path / "none"), *more)
        assert code == 2 and not (tmp_path / "none").exists()
        return stderr

    folder = str(teacher_folder)
    assert "--models small: given twice; give different names" in refused("--models", f"small={folder}", "small=x")
    assert "--models a/b=c: must be NAME=PATH or a path" in refused("--models", "a/b=c")
    three = ("--set", "deepspeed.train_micro_batch_size_per_gpu=3")
    said = refused("--models", str(tmp_path / "none"), *three)
    assert "--models none: there is no folder" in said and "2 rows at once instead of 3" in said
    assert "--tasks nothing: no such file; must be a path or one of afqmc, " in refused("--tasks", "nothing")
    assert "--seeds: must be at least 1, got 0" in refused("--seeds", "0")
    assert "--workers: must be at least 1, got 0" in refused("--workers", "0")
    tuned, bare = tmp_path / "tuned", tmp_path / "bare"
    AutoModelForSequenceClassification.from_pretrained(teacher_folder).save_pretrained(tuned)
    shutil.copyfile(tuned / "config.json", bare.mkdir() or bare / "config.json")
    said = refused("--models", str(tuned), str(bare))
    assert "tuned is already fine-tuned (a BertForSequenceClassification), so the" in said
    assert f"--models bare: tokenizer '{bare}': has no vocabulary" in said
    assert "fine_tuning.epocs: unknown key; did you mean epochs?" in refused("--set", "fine_tuning.epocs=1")
    assert "--models large: has 40 positions, but tnews needs 64" in refused("--tasks", "tnews")
