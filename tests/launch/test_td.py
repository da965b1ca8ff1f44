"""A task's stages by the real command, stopped and picked up; and what is refused before anything trains."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification

from launch.publish import publish
from launch.run_config import read_strictly
from launch.task_run_config import TaskRunConfig

ROOT = Path(__file__).parents[2]
GENERIC = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
STAGE = {"epochs": 1, "optimizer": {"lr": 1e-3}}


@pytest.fixture(scope="module")
def student(finished_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("students") / "small"
    publish(finished_run, "small", folder)
    return folder


@pytest.fixture(scope="module")
def values(teacher_folder, student, config_file, config_values, tmp_path_factory):
    folder = tmp_path_factory.mktemp("task")
    records = [{"sentence": f"{first} {rest}", "label": first} for first in "天地" for rest in "玄黄宇宙洪荒"]
    (folder / "data.json").write_text("".join(json.dumps(one) + "\n" for one in records))
    one_student = config_values | {"students": config_values["students"][:1]}
    (folder / "ged.json").write_text(json.dumps(one_student))
    relations = [{"type": "minilm_v2", "num_relation_heads": 4}]
    return {
        "about": "tests",
        "task": {"name": "t", "kind": "sentence", "train": str(folder / "data.json"), "dev": str(folder / "data.json"),
                 "row_tokens": 16},
        "teacher": {"path": str(teacher_folder), "dtype": "float32"},
        "student": str(student),
        "stages": {
            "ft": STAGE | {"objective": [{"type": "labels"}]},
            "ged": {"config": str(folder / "ged.json"), "set": ["training.total_steps=2"]},
            "td1": STAGE | {"objective": relations},
            "td2": STAGE | {"objective": [{"type": "labels"}, {"type": "soft_labels"}]},
        },
        "training": {"log_every_steps": 1},
        "deepspeed": {"train_batch_size": 4, "train_micro_batch_size_per_gpu": 4},
    }  # fmt: skip


@pytest.fixture(scope="module")
def chain_file(values, tmp_path_factory):
    path = tmp_path_factory.mktemp("chain") / "t.json"
    path.write_text(json.dumps(values))
    return path


def run_chain(*arguments: str) -> subprocess.CompletedProcess[str]:
    # What tests in this process told torch.distributed is not for another process.
    mine = {name: value for name, value in os.environ.items() if name not in GENERIC}
    return subprocess.run(
        [sys.executable, "launch/td.py", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300,
        env=mine | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_a_chain_runs_every_stage_and_picks_up_after_the_last(chain_file, tmp_path, values):
    run = tmp_path / "run"
    first = run_chain("--config", str(chain_file), "--run", str(run))
    assert first.returncode == 0, first.stderr
    assert "12 development texts that are also in training" in first.stderr
    for stage in ("ft", "ged", "td1", "td2"):
        assert (run / stage / "done.json").is_file() and (run / stage / "model/tokenizer.json").is_file()
    assert set(json.loads((run / "td2/scores.json").read_text())) == {"accuracy", "f1", "macro_f1"}
    assert not (run / "td1/scores.json").exists()  # its head is not trained
    assert AutoModelForSequenceClassification.from_pretrained(run / "td2/model").config.num_hidden_layers == 2
    before = {path: path.stat().st_mtime_ns for path in (run / "ft").rglob("*") if path.is_file()}
    (run / "td2/done.json").unlink()
    again = run_chain("--config", str(chain_file), "--run", str(run))
    assert again.returncode == 0, again.stderr
    assert again.stdout == first.stdout and (run / "td2/done.json").is_file()
    assert before == {path: path.stat().st_mtime_ns for path in (run / "ft").rglob("*") if path.is_file()}
    other = run_chain("--config", str(chain_file), "--run", str(run), "--set", "training.seed=5")
    assert other.returncode == 2 and "belongs to another config; different: training.seed" in other.stderr


def check(chain_file, *overrides):
    config = read_strictly(TaskRunConfig, chain_file, overrides)
    config.check()
    config.warn_of_other_losses()


def test_what_cannot_work_is_refused(chain_file, tmp_path, student, teacher_folder):
    with pytest.raises(ValueError, match="stages: none is given; there are ft, ged, td1, td2"):
        check(chain_file, "stages={}")
    with pytest.raises(ValueError, match=r"teacher: stages.td1 needs one"):
        check(chain_file, "teacher=null")
    with pytest.raises(ValueError, match=r"stages.ft.objective: fine-tuning has no teacher"):
        check(chain_file, 'stages.ft.objective=[{"type": "soft_labels"}]')
    with pytest.raises(ValueError, match=r"task.row_tokens: the student has 40 positions, got 64"):
        check(chain_file, "task.row_tokens=64")
    with pytest.raises(ValueError, match=r"stages.td1.objective.0.num_relation_heads: must divide"):
        check(chain_file, "stages.td1.objective.0.num_relation_heads=5")
    with pytest.raises(ValueError, match=r"stages.td1.epocs: unknown key; did you mean epochs\?"):
        check(chain_file, "stages.td1.epocs=5")
    other = tmp_path / "other"
    other.mkdir()
    for path in student.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["normalizer"] = None
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ValueError, match=r"student: .*other has another tokenizer than the teacher"):
        check(chain_file, f"student={other}")


def test_a_change_of_losses_is_warned_of(chain_file, student, teacher_folder, recwarn):
    check(chain_file)
    assert not [one for one in recwarn if "losses" in str(one.message)]
    with pytest.warns(UserWarning, match=r"stages.td1 uses minilm, but .* was distilled by hidden_states, minilm_v2"):
        check(chain_file, 'stages.td1.objective=[{"type": "minilm"}]')
    with pytest.warns(UserWarning, match="does not say what it was distilled by"):
        check(chain_file, f"student={teacher_folder}")
