"""A run folder is held by one job, the same on every rank, and done when it says so."""

import errno
import json
import subprocess
import sys
from unittest.mock import Mock

import pytest

from launch.distillation.config import read_run_config
from launch.distillation.run_files import check_run_folder
from launch.job import run_folder
from launch.job.run_folder import check_alike, check_shared, hold_run_folder, keep_kernels, read_done, write_done
from pretrain import durable
from pretrain.checkpoints.checkpoint import TrainingState
from tests.processes import ROOT


def test_a_run_is_done_when_it_says_so(tmp_path):
    assert read_done(tmp_path) is None
    done = write_done(tmp_path, TrainingState(step=6, rows=48, tokens=768, seconds=1.5))
    assert read_done(tmp_path) == done
    assert (done.step, done.tokens, done.reason) == (6, 768, "trained to training.total_steps")
    (tmp_path / "done.json").write_text("{")
    with pytest.raises(ValueError, match=r"done.json: not written by a complete run; remove it to continue"):
        read_done(tmp_path)


@pytest.mark.job
def test_a_folder_where_another_job_trains_is_refused_until_that_ends(tmp_path):
    run = tmp_path / "run"
    hold = "import sys; from pathlib import Path; from launch.job.run_folder import hold_run_folder;"
    hold += "hold_run_folder(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", hold, str(run)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(
            ValueError, match=r"run: another job uses this folder; stop it, or give another --run folder"
        ):
            hold_run_folder(run, wait_seconds=0.3)
        other.kill()
    hold_run_folder(run)
    hold_run_folder(run)  # a process may train there again


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch):
    monkeypatch.setattr(durable.fcntl, "flock", Mock(side_effect=OSError(errno.ENOLCK, "No locks available")))
    with pytest.warns(UserWarning, match=r"its file system has no locks \(No locks available\)"):
        hold_run_folder(tmp_path)


def test_ranks_may_have_their_inputs_at_other_paths_and_no_others(monkeypatch):
    def given(path, keep, weights):
        init = [{"init": {"student": path, "layers": keep}}]
        config = {"teacher": {"path": path}, "students": init, "student": path, "training": {"keep_checkpoints": keep}}
        config |= {"probe": {"heldout": path, "task": {"dev": path}}, "stages": {"ged": {"config": path}}}
        return config, {"student": {"weights": weights}}

    problems: list[str | None] = []
    monkeypatch.setattr(run_folder, "on_rank_zero", lambda action: given("a", 1, "0"))
    monkeypatch.setattr(run_folder, "raise_together", problems.append)
    check_alike(*given("b", 1, "0"))
    check_alike(*given("a", 2, "1"))
    other = "students.0.init.layers, training.keep_checkpoints, student.weights"
    assert problems == [None, f"differs from rank 0 in {other}"]


def test_a_host_that_does_not_see_the_run_folder_is_an_error(tmp_path, monkeypatch):
    problems: list[str | None] = []
    monkeypatch.setattr(run_folder, "raise_together", problems.append)
    (tmp_path / "config.json").touch()
    check_shared(tmp_path / "config.json")
    check_shared(tmp_path / "none.json", wait_seconds=0)
    assert problems[0] is None and problems[1].startswith(f"{tmp_path / 'none.json'}: written by rank 0, but does not")


def test_a_run_keeps_its_kernels_where_its_configuration_leaves_the_choice(tmp_path, config_file, monkeypatch):
    monkeypatch.setattr(run_folder, "on_rank_zero", lambda action: action())
    config = read_run_config(config_file, ["students.1.objective.0.kernel=triton"])
    assert [one.objective[0].kernel for one in config.students] == ["auto", "triton"]
    assert keep_kernels(config, tmp_path) == config  # nothing was begun
    begun = read_run_config(config_file, [f"students.{index}.objective.0.kernel=portable" for index in (0, 1)])
    (tmp_path / "config.json").write_text(begun.model_dump_json())
    kept = keep_kernels(config, tmp_path)
    assert [one.objective[0].kernel for one in kept.students] == ["portable", "triton"]
    assert type(kept) is type(config)
    check_run_folder(config, None, tmp_path)  # another kernel makes no other run
    older = json.loads(begun.model_dump_json())
    for student in older["students"]:
        del student["objective"][0]["kernel"]
    (tmp_path / "config.json").write_text(json.dumps(older))
    assert keep_kernels(config, tmp_path) == config
