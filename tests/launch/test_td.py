"""A task's stages by the real command, stopped and picked up; and what is refused before anything trains."""

import gc
import json
import re
import shutil
import subprocess
import weakref
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from launch import td
from launch.command_line.config_file import read_strictly
from launch.command_line.fingerprints import model_inputs
from launch.job import rank
from launch.job.run_folder import write_done
from launch.job.world import World
from launch.publishing.student_folder import publish
from launch.stages import config as stages_config
from launch.stages.chain import Chain, check_chain, check_inputs, warn_of_collapse
from launch.stages.config import TaskRunConfig
from pretrain.checkpoints.checkpoint import TrainingState
from tests.launch.test_evaluate_tasks import Engine
from tests.pretrain.tiny import teacher_model
from tests.processes import run_script

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
        "deepspeed": {"train_batch_size": 4, "train_micro_batch_size_per_gpu": 4, "torch_autocast": {"enabled": False}},
    }  # fmt: skip


@pytest.fixture(scope="module")
def chain_file(values, tmp_path_factory):
    path = tmp_path_factory.mktemp("chain") / "t.json"
    path.write_text(json.dumps(values))
    return path


def run_chain(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run_script("launch/td.py", *arguments)


def test_a_chain_runs_every_stage_and_picks_up_after_the_last(chain_file, tmp_path, values):
    run = tmp_path / "run"
    first = run_chain("--config", str(chain_file), "--run", str(run))
    assert first.returncode == 0, first.stderr
    assert "12 development texts that are also in training" in first.stderr
    for stage in ("ft", "ged", "td1", "td2"):
        assert (run / stage / "done.json").is_file()
        assert AutoTokenizer.from_pretrained(run / stage / "model").model_max_length == 40
    assert "0.5000  always the commonest label" in first.stdout
    assert set(json.loads((run / "td2/scores.json").read_text())) == {"accuracy", "f1", "macro_f1"}
    assert not (run / "td1/scores.json").exists()  # its head is not trained
    assert AutoModelForSequenceClassification.from_pretrained(run / "td2/model").config.num_hidden_layers == 2
    before = {path: path.stat().st_mtime_ns for path in (run / "ft").rglob("*") if path.is_file()}
    (run / "td2/done.json").unlink()
    again = run_chain("--run", str(run))
    assert again.returncode == 0, again.stderr
    assert again.stdout == first.stdout and (run / "td2/done.json").is_file()
    assert before == {path: path.stat().st_mtime_ns for path in (run / "ft").rglob("*") if path.is_file()}
    assert f'AutoModelForSequenceClassification.from_pretrained("{run / "td2/model"}")' in first.stdout
    fewer = run_chain("--run", str(run), "--set", "training.log_every_steps=3", "about=x")
    assert fewer.returncode == 0, "keys that docs/keys.md marks"
    assert json.loads((run / "config.json").read_text())["about"] == "x"
    other = run_chain("--run", str(run), "--set", "training.seed=5")
    assert other.returncode == 2 and "contains a run with another configuration; changed: training.seed" in other.stderr


def check(chain_file, *overrides):
    config = read_strictly(TaskRunConfig, chain_file, overrides)
    config.check()
    config.warn_of_other_losses()
    return config


@pytest.fixture
def copied_teacher(teacher_folder, tmp_path):
    return Path(shutil.copytree(teacher_folder, tmp_path / "teacher"))


def test_a_stage_has_the_memory_of_the_one_before(chain_file, tmp_path):
    engines: list[weakref.ref[Engine]] = []

    def run_stage(_: str) -> int:
        assert all(engine() is None for engine in engines)
        engine = Engine()
        engines.append(weakref.ref(engine))
        return 0

    config = read_strictly(TaskRunConfig, chain_file, ["stages.ged=null"])
    chain = SimpleNamespace(config=config, run=tmp_path, _is_done=lambda _: False, _run_stage=run_stage)
    gc.disable()
    try:
        assert Chain._run_stages(chain) == 0 and len(engines) == 3
    finally:
        gc.enable()


def test_nothing_goes_on_with_other_models_or_examples_at_the_same_paths(chain_file, values, copied_teacher, tmp_path):
    run, examples = tmp_path / "run", tmp_path / "data.json"
    run.mkdir()
    shutil.copy(values["task"]["dev"], examples)
    config = check(chain_file, f"teacher.path={copied_teacher}", f"task.dev={examples}")
    check_inputs(config, run)
    written = (run / "inputs.json").stat().st_mtime_ns
    check_inputs(config, run)
    assert (run / "inputs.json").stat().st_mtime_ns == written
    weights = load_file(copied_teacher / "model.safetensors")
    first = next(iter(weights))
    save_file(weights | {first: weights[first] + 1}, copied_teacher / "model.safetensors", {"format": "pt"})
    examples.write_text(examples.read_text() + "\n")
    model_inputs.cache_clear()
    with pytest.raises(
        ValueError, match=r"run: was started with another files.dev, teacher.weights. Give another --run"
    ):
        check_inputs(config, run)
    (run / "inputs.json").write_text("[]")
    with pytest.raises(ValueError, match=r"inputs.json: not written by a chain; give another --run folder"):
        check_inputs(config, run)


def test_a_stage_that_is_to_be_made_again_takes_those_after_it_with_it(chain_file, tmp_path):
    config = check(chain_file)
    for stage in ("ged", "td1"):
        (tmp_path / stage).mkdir()
        write_done(tmp_path / stage, TrainingState(step=1, rows=1, tokens=1, seconds=1.0))
    with pytest.raises(
        ValueError, match=r"/ged, .*/td1: made from an earlier ft, which is not done now; remove them too"
    ):
        check_chain(config, tmp_path, 1)


def test_a_general_stage_that_cannot_work_is_refused_before_the_teacher_trains(chain_file, config_file, tmp_path):
    for override, message in (
        ("stages.ged.config=none.json", "none.json: cannot be read"),
        (f"stages.ged.config={config_file}", "has 2 students; must have one"),
        ('stages.ged.set=["students.0.num_layers=1"]', "students.0.init.student"),
        ('stages.ged.set=["corpus.manifest=none"]', "there is no manifest"),
        ('stages.ged.set=["deepspeed.train_batch_size=5"]', "train_batch_size: must be a multiple of 2 ranks, got 5"),
    ):
        with pytest.raises(ValueError, match=message):
            check_chain(read_strictly(TaskRunConfig, chain_file, [override]), tmp_path, 2)


def test_a_corpus_that_is_gone_ends_no_chain_that_was_begun_with_it(chain_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(rank, "SPEAK_SECONDS", 0)
    arguments = Namespace(
        config=chain_file, overrides=['stages.ged.set=["corpus.manifest=/not/mounted"]'], run=tmp_path
    )
    config = check(chain_file, *arguments.overrides)
    assert rank.run_job(td.prepare, arguments, World(), SimpleNamespace(reason=0)) == 2
    assert "error: /not/mounted/manifest.json: there is no manifest" in capsys.readouterr().err
    (tmp_path / "config.json").write_text(config.model_dump_json())
    assert rank.run_job(td.prepare, arguments, World(), SimpleNamespace(reason=0)) == 76
    assert "stopped: /not/mounted/manifest.json: there is no manifest" in capsys.readouterr().err


def test_a_run_folder_that_cannot_be_written_is_refused_before_anything_trains(
    chain_file, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(Chain, "__init__", Mock(side_effect=AssertionError("a chain begins")))
    (tmp_path / "file").touch()
    arguments = Namespace(config=chain_file, overrides=["stages.ged=null"], run=tmp_path / "file")
    assert rank.run_job(td.prepare, arguments, World(), SimpleNamespace(reason=0)) == 2
    assert f"error: run folder {tmp_path / 'file'}: cannot be written: File exists" in capsys.readouterr().err


def test_the_file_of_the_general_stage_is_read_once(chain_file, tmp_path, monkeypatch):
    reads = Mock(side_effect=stages_config.read_run_config)
    monkeypatch.setattr(stages_config, "read_run_config", reads)
    config = check(chain_file)
    check_chain(config, tmp_path, 1)
    assert reads.call_count == 1 and config == read_strictly(TaskRunConfig, chain_file)


def test_heads_are_looked_at_before_anything_trains(chain_file, teacher_folder, tmp_path):
    check(chain_file).check_heads(["地", "天"])
    with pytest.raises(ValueError, match=r"has no head for this task; fine-tune it first"):
        check(chain_file, "stages.ft=null").check_heads(["地", "天"])
    model = AutoModelForSequenceClassification.from_pretrained(teacher_folder, num_labels=3)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(teacher_folder).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"its head is for the labels LABEL_0, LABEL_1, LABEL_2; this task has 地, 天"):
        check(chain_file, f"student={tmp_path}", "stages.td1=null").check_heads(["地", "天"])


def test_what_cannot_work_is_refused(chain_file, tmp_path, student, teacher_folder):
    with pytest.raises(ValueError, match="stages: must have at least one of ft, ged, td1, td2"):
        check(chain_file, "stages={}")
    with pytest.raises(ValueError, match=r"teacher: stages.td1 needs one"):
        check(chain_file, "teacher=null")
    with pytest.raises(ValueError, match=r"stages.ft.objective: must be .*: fine-tuning has no teacher"):
        check(chain_file, 'stages.ft.objective=[{"type": "soft_labels"}]')
    with pytest.raises(ValueError, match=r"task.row_tokens: the student has 40 positions, got 64"):
        check(chain_file, "task.row_tokens=64")
    with pytest.raises(ValueError, match=r"stages.td1.objective.0.num_relation_heads: must divide"):
        check(chain_file, "stages.td1.objective.0.num_relation_heads=5")
    with pytest.raises(ValueError, match=r"stages.td1.epocs: unknown key; did you mean epochs\?"):
        check(chain_file, "stages.td1.epocs=5")
    set_objective = json.dumps(['students.0.objective=[{"type": "distilbert"}]'])
    with pytest.raises(ValueError, match=r"stages.ged: distilbert needs a teacher's masked-language head; fine-tuning"):
        check(chain_file, f"stages.ged.set={set_objective}")
    other = tmp_path / "other"
    other.mkdir()
    for path in student.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["normalizer"] = None
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ValueError, match=r"student: .*other has another tokenizer than the teacher"):
        check(chain_file, f"student={other}")


def test_models_with_fewer_embeddings_than_tokens_are_refused(chain_file, tmp_path, teacher_folder):
    shutil.copytree(teacher_folder, tmp_path / "model")
    teacher_model(vocab_size=30).save_pretrained(tmp_path / "model")
    for key in ("student", "teacher.path"):
        with pytest.raises(ValueError, match=rf"^{key}: '.*/model' has 30 embeddings, but the tokenizer has 56 ids; "):
            check(chain_file, f"{key}={tmp_path / 'model'}")


def test_a_model_that_knows_no_more_than_the_commonest_label_is_warned_of(recwarn):
    warn_of_collapse("ft", 0.7, 0.69)
    warn_of_collapse("ft", 0.1, None)  # entities and reading have none
    assert not recwarn
    message = r"^ft: 0.6900 is not better than always answering .*, 0.6900; other learning rates .* \(stages.ft\)$"
    with pytest.warns(UserWarning, match=message):
        warn_of_collapse("ft", 0.69, 0.69)


def test_another_teacher_than_the_students_is_warned_of(chain_file, student, copied_teacher, teacher_folder, recwarn):
    without, another = "stages.ged=null", f"teacher.path={copied_teacher}"
    check(chain_file, without)
    check(chain_file, without, another)  # the same weights elsewhere
    weights = load_file(copied_teacher / "model.safetensors")
    first = next(iter(weights))
    save_file(weights | {first: weights[first] + 1}, copied_teacher / "model.safetensors", {"format": "pt"})
    model_inputs.cache_clear()
    check(chain_file, without, another, "stages.ft=null", "stages.td2=null")  # it may be fine-tuned: nothing to compare
    check(chain_file, another)  # GED goes before
    assert not [one for one in recwarn if "distilled from" in str(one.message)]
    change = f"{student} was distilled from {teacher_folder}, but stages.td1 uses the teacher {copied_teacher}, which"
    with pytest.warns(UserWarning, match=re.escape(change)):
        check(chain_file, without, another)


def test_a_change_of_losses_is_warned_of(chain_file, student, teacher_folder, recwarn):
    check(chain_file)
    assert not [one for one in recwarn if "losses" in str(one.message)]
    other = 'stages.td1.objective=[{"type": "minilm"}]'
    with pytest.warns(UserWarning, match=r"uses minilm, but stages.ged is configured with hidden_states, minilm_v2"):
        check(chain_file, other)
    with pytest.warns(UserWarning, match=r"uses minilm, but .*small was distilled with hidden_states, minilm_v2"):
        check(chain_file, other, "stages.ged=null")
    sources = (("stages.ged=null", f"{student} was distilled"), ("stages.td2=null", "stages.ged is configured"))
    for ged, source in sources:
        said = f"stages.td1: minilm_v2: num_relation_heads 2, but {source} with 4"
        with pytest.warns(UserWarning, match=re.escape(said)):
            check(chain_file, 'stages.td1.objective=[{"type": "minilm_v2", "num_relation_heads": 2}]', ged)
    before = len(recwarn)
    for key in ("kernel", "teacher_layer"):  # the same loss by other means; the layer that null stands for
        value = {"kernel": '"triton"', "teacher_layer": "4"}[key]
        same = f'stages.td1.objective=[{{"type": "minilm_v2", "num_relation_heads": 4, "{key}": {value}}}]'
        read_strictly(TaskRunConfig, chain_file, [same, "stages.ged=null"]).warn_of_other_losses()
    assert not [one for one in recwarn.list[before:] if "stages.td1" in str(one.message)]
    with pytest.warns(UserWarning, match="does not say with which losses it was distilled"):
        check(chain_file, f"student={teacher_folder}", "stages.ged=null")
