"""The main job through the real launcher, and every input it refuses."""

import json
import shutil
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file, save_file

from corpus.shards.store import StoreLost
from launch.distillation import training
from launch.distillation.checks import check_finished, check_input
from launch.distillation.config import read_run_config
from launch.distillation.run_files import check_teacher
from launch.gd import prepare
from launch.job import rank
from launch.job.world import World
from pretrain.models.teacher import fingerprint
from pretrain.training.metrics import read_metrics
from pretrain.training.trainer import DataLate
from tests.launch.conftest import launch, launch_as_typed
from tests.pretrain.tiny import teacher_model


def typed(**values: Any) -> Namespace:
    """Flags as they are parsed, with none of --plan."""
    return Namespace(plan=False, gpus=None, tflops=None, gbit=None, price=None, law=None, **values)


def test_the_run_folder_holds_what_every_later_reader_needs(finished_run, config_values):
    assert [line["step"] for line in read_metrics(finished_run)] == [2, 4, 6]
    facts = json.loads((finished_run / "run.json").read_text())
    assert facts["corpus"]["documents"] == 300
    assert set(facts["unreached_parameters"]) == {"small", "other"}
    assert [one["relation_kernels"] for one in facts["ran_on"]] == [["portable"]]
    resolved = json.loads((finished_run / "config.json").read_text())
    assert resolved["training"]["keep_checkpoints"] == 3  # a default, written out
    assert {path.name for path in (finished_run / "start").iterdir()} == {"small", "other"}
    assert (finished_run / "start/small/tokenizer.json").is_file()
    assert not list(finished_run.rglob("*teacher*"))


def test_one_rank_of_twice_the_rows_gives_the_same_student(finished_run, config_file, tmp_path):
    others = ("deepspeed.train_micro_batch_size_per_gpu=8", "teacher.capture=true")
    done = launch("--config", str(config_file), "--run", str(tmp_path / "run"), "--set", *others)
    assert done.returncode == 0, done.stderr
    assert "teacher.capture: the teacher's pass is not captured: a cpu has no CUDA graphs" in done.stderr
    ours = load_file(tmp_path / "run/checkpoints/step_6/small/model/model.safetensors")
    theirs = load_file(finished_run / "checkpoints/step_6/small/model/model.safetensors")
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-2, atol=2e-4)  # bfloat16 autocast


def test_a_finished_run_is_told_of_by_its_folder_alone_and_says_how_to_publish(finished_run, capsys):
    arguments = typed(config=None, overrides=[], run=finished_run)
    assert rank.run_job(prepare, arguments, World(), SimpleNamespace(reason=0)) == 0
    said = capsys.readouterr().out
    tokens = read_metrics(finished_run)[-1]["tokens"]
    assert f"6 steps, {tokens:,.0f} tokens" in said
    assert "already done, 20" in said and str(finished_run / "done.json") in said
    command = f"python launch/publish.py --run {finished_run} --student"
    assert said.splitlines()[-2:] == [
        f"next: {command} {name} --output students/{name}" for name in ("small", "other")
    ]  # fmt: skip
    arguments = typed(config=None, overrides=["corpus.seed=5"], run=finished_run)
    assert rank.run_job(prepare, arguments, World(), SimpleNamespace(reason=0)) == 2
    assert "contains a run with another configuration; changed: corpus.seed" in capsys.readouterr().err
    arguments = typed(config=None, overrides=[], run=finished_run / "none")
    assert rank.run_job(prepare, arguments, World(), SimpleNamespace(reason=0)) == 2
    assert "none: no run has started there; give --config too" in capsys.readouterr().err


def test_a_run_that_another_teacher_finished_is_not_called_done(finished_run, config_file, teacher_folder, tmp_path):
    other = tmp_path / "teacher"
    shutil.copytree(teacher_folder, other)
    config = read_run_config(config_file, [f"teacher.path={other}"])
    check_finished(config, finished_run)  # the same one at another path
    weights = load_file(other / "model.safetensors")
    first = next(iter(weights))
    save_file(weights | {first: weights[first] + 1}, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        ValueError, match=rf"teacher.path: not the weights .* was started with \(from {teacher_folder}\)"
    ):
        check_finished(config, finished_run)


@pytest.mark.job
def test_pairs_projected_layers_and_every_layer_objective_run(config_file, tmp_path):
    """What is not in the other runs, in one; gone on with from step 3; then its student is where another begins."""
    objectives = [{"type": "tinybert"}, {"type": "pkd"}, {"type": "ernie_tiny"}]
    objectives[0]["weight"] = {"start": 1.0, "end": 0.0, "until": 0.5}
    overrides = [
        "corpus.rows=pairs",
        "students.0.init.layers=uniform",
        f"students.0.objective={json.dumps(objectives)}",
    ]
    done = launch("--config", str(config_file), "--run", str(tmp_path / "run"), "--set", *overrides)
    assert done.returncode == 0, done.stderr
    assert "choosing and projecting the teacher's layers for small, on 4,096 tokens" in done.stderr
    names = {key.removeprefix("small/") for key in read_metrics(tmp_path / "run")[-1] if key.startswith("small/")}
    assert {"hidden/0", "attention/2", "patient/1", "relation/query_key", "relation/value"} < names
    student = tmp_path / "run/checkpoints/step_6/small/model"
    last = Path(shutil.move(tmp_path / "run/checkpoints/step_6", tmp_path / "step_6")) / "small"
    (tmp_path / "run/done.json").unlink()
    done = launch("--config", str(config_file), "--run", str(tmp_path / "run"), "--set", *overrides)
    assert done.returncode == 0 and "resuming from" in done.stderr, done.stderr
    assert "projects" not in done.stderr, "the checkpoint has all weights"
    for file in ("model/model.safetensors", "training.safetensors"):
        once, again = load_file(last / file), load_file(student.parent / file)
        assert once.keys() == again.keys() and all(torch.equal(once[name], again[name]) for name in once)
    overrides = ["corpus.attend_within_documents=true", f"students.0.init.student={student}"]
    done = launch("--config", str(config_file), "--run", str(tmp_path / "next"), "--set", *overrides)
    assert done.returncode == 0, done.stderr
    start, end = load_file(tmp_path / "next/start/small/model.safetensors"), load_file(student / "model.safetensors")
    assert all(torch.equal(start[name], end[name]) for name in end)


@pytest.mark.job
def test_a_refusal_through_the_launcher_is_one_message_and_a_bad_exit_code(config_file, tmp_path):
    arguments = ("--config", str(config_file), "--run", str(tmp_path), "--set", "teacher.paht=x")
    done = launch_as_typed(*arguments, num_ranks=2)
    assert done.returncode != 0
    assert done.stderr.count("error: ") == 1
    assert "teacher.paht: unknown key; did you mean path?" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [StoreLost("shard-00000.bin: block 0: no answer"), DataLate("no batch came"), None])
def test_data_out_of_reach_is_no_reason_to_end_a_run_for_good(config_file, tmp_path, capsys, monkeypatch, error):
    def distil(*_: object) -> int:
        raise error or ValueError("a teacher of other weights")

    monkeypatch.setattr(training, "distil", distil)
    monkeypatch.setattr(rank, "SPEAK_SECONDS", 0)
    arguments = typed(config=config_file, overrides=[], run=tmp_path)
    assert rank.run_job(prepare, arguments, World(), SimpleNamespace(reason=0)) == (76 if error else 2)
    assert ("run again to resume from the newest checkpoint" in capsys.readouterr().err) == bool(error)


def test_a_corpus_that_is_gone_ends_no_run_that_was_begun_with_it(config_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(rank, "SPEAK_SECONDS", 0)
    arguments = typed(config=config_file, overrides=["corpus.manifest=/not/mounted"], run=tmp_path)
    start = lambda: rank.run_job(prepare, arguments, World(), SimpleNamespace(reason=0))  # noqa: E731
    assert start() == 2
    began = read_run_config(config_file, arguments.overrides)
    (tmp_path / "config.json").write_text(began.model_dump_json())
    assert start() == 76
    (tmp_path / "done.json").touch()
    assert start() == 2, "nothing is left to come again for"
    said = capsys.readouterr().err.splitlines()
    words = ["error", "[rank 0] stopped", "error"]
    assert [line.partition(": /not/mounted/manifest.json: there is no manifest; ")[0] for line in said] == words
    (tmp_path / "done.json").unlink()
    arguments.overrides = ["corpus.manifest=/mistyped"]
    assert start() == 2
    assert capsys.readouterr().err.endswith(f"; {tmp_path} was started with /not/mounted\n")


@pytest.mark.parametrize(
    ("run", "reason"), [("file", "File exists"), ("file/run", "Not a directory"), ("/proc/x/y", "")]
)
def test_a_run_folder_that_cannot_be_written_is_refused_before_models_are_built(
    config_file, tmp_path, capsys, monkeypatch, run, reason
):
    monkeypatch.setattr(training, "distil", Mock(side_effect=AssertionError("models are built")))
    (tmp_path / "file").touch()
    arguments = typed(config=config_file, overrides=[], run=tmp_path / run)
    assert rank.run_job(prepare, arguments, World(), SimpleNamespace(reason=0)) == 2
    assert f"error: run folder {tmp_path / run}: cannot be written: {reason}" in capsys.readouterr().err


def check(config_file, run, *overrides, world_size=1):
    return check_input(read_run_config(config_file, overrides), run, world_size)


def test_input_that_cannot_work_is_refused_before_anything_starts(config_file, tmp_path):
    with pytest.raises(ValueError, match=r"teacher.path: no model could be loaded from .*'no/teacher'"):
        check(config_file, tmp_path, "teacher.path=no/teacher")
    with pytest.raises(ValueError, match=r"there is no manifest; build the corpus with launch/build_corpus.py"):
        check(config_file, tmp_path, f"corpus.manifest={tmp_path}")
    with pytest.raises(ValueError, match="no source is named laws; the sources are tiny"):
        check(config_file, tmp_path, "corpus.weights.laws=0.2")
    with pytest.raises(ValueError, match=r"num_relation_heads: must divide .* legal values: 12, 6, 4, 3, 2, 1"):
        check(config_file, tmp_path, "students.0.objective.0.num_relation_heads=5")
    with pytest.raises(ValueError, match=r"train_batch_size: must be a multiple of 3 ranks, got 8"):
        check(config_file, tmp_path, world_size=3)


def test_a_corpus_of_another_tokenizer_is_refused_with_both_names(config_file, tmp_path, teacher_folder):
    other = tmp_path / "teacher"
    shutil.copytree(teacher_folder, other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["normalizer"] = None
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    message = r"was built with the tokenizer .*, but the teacher .* has another .*; build the corpus"
    with pytest.raises(ValueError, match=message):
        check(config_file, tmp_path / "run", f"teacher.path={other}")


def test_a_teacher_with_fewer_embeddings_than_tokens_is_refused(config_file, tmp_path, teacher_folder):
    """It would be an IndexError in mid-run, on a GPU an assertion that tells nothing."""
    shutil.copytree(teacher_folder, tmp_path / "teacher")
    teacher_model(vocab_size=30).save_pretrained(tmp_path / "teacher")
    with pytest.raises(
        ValueError,
        match=r"teacher.path: '.*/teacher' has 30 embeddings, but the tokenizer has 56 ids; the first too many is ",
    ):
        check(config_file, tmp_path / "run", f"teacher.path={tmp_path / 'teacher'}")


def test_a_corpus_with_a_shard_missing_or_cut_is_refused(config_file, tmp_path, corpus_folder):
    broken = tmp_path / "corpus"
    shutil.copytree(corpus_folder, broken)
    shard = sorted(broken.glob("*.bin"))[0]
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ValueError, match=rf"{shard.name}: the shard has \d+ bytes, but the manifest says"):
        check(config_file, tmp_path / "run", f"corpus.manifest={broken}")
    shard.unlink()
    with pytest.raises(ValueError, match=rf"{shard.name}: the shard is missing"):
        check(config_file, tmp_path / "run", f"corpus.manifest={broken}")


@pytest.mark.job
def test_a_corrupt_shard_stops_the_job_with_its_name_and_not_a_traceback(config_file, tmp_path, corpus_folder):
    broken = tmp_path / "corpus"
    shutil.copytree(corpus_folder, broken)
    for shard in broken.glob("*.bin"):
        data = bytearray(shard.read_bytes())
        data[len(data) // 2] ^= 1
        shard.write_bytes(data)
    done = launch("--config", str(config_file), "--run", str(tmp_path / "run"), "--set", f"corpus.manifest={broken}")
    assert done.returncode != 0
    assert "stopped: " in done.stderr and "shard-" in done.stderr and "block" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_folder_of_another_config_or_corpus_or_teacher_is_refused(finished_run, config_file, tmp_path):
    check(config_file, finished_run, "training.log_every_steps=1")  # may change
    message = r"contains a run with another configuration; changed: corpus.seed, students.1.name\. Give another --run "
    with pytest.raises(ValueError, match=message + "folder, or the configuration of the run in this one$"):
        check(config_file, finished_run, "corpus.seed=5", "students.1.name=tall")
    way = "the schedule depends on a run's length: to train longer, start a new run with init.student"
    with pytest.raises(ValueError, match=rf"changed: training.total_steps\. Give .*; {way}$"):
        check(config_file, finished_run, "training.total_steps=9")
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.json", "run.json"):
        facts = (finished_run / name).read_text()
        (run / name).write_text(facts.replace('"fingerprint": "', '"fingerprint": "0'))
    with pytest.raises(ValueError, match=r"changed: corpus.manifest \(the corpus itself has changed\)"):
        check(config_file, run)
    with pytest.raises(ValueError, match=r"teacher.path: not the weights that .* was started with \(from "):
        check_teacher(run, fingerprint(teacher_model()))
