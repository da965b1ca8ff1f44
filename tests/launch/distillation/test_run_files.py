"""done.json, and files that are whole whenever the process is killed."""

import errno
import json
import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from launch.distillation import run_files
from launch.distillation.config import read_run_config
from launch.distillation.run_files import check_run_folder, save_start, summary
from launch.job.run_folder import check_shared, keep_kernels, read_done, write_done
from pretrain import durable
from pretrain.checkpoints.checkpoint import TrainingState
from pretrain.students.student import build_student
from tests.pretrain.tiny import student_config, teacher_model

ROOT = Path(__file__).parents[3]


def test_a_run_is_done_when_it_says_so(tmp_path):
    assert read_done(tmp_path) is None
    done = write_done(tmp_path, TrainingState(step=6, rows=48, tokens=768, seconds=1.5))
    assert read_done(tmp_path) == done
    assert (done.step, done.tokens, done.reason) == (6, 768, "trained to training.total_steps")
    (tmp_path / "done.json").write_text("{")
    with pytest.raises(ValueError, match=r"done.json: not written by a complete run; remove it to continue"):
        read_done(tmp_path)


def test_a_finished_run_is_summed_up_without_its_losses_too(tmp_path, config_file):
    config, done = (
        read_run_config(config_file),
        write_done(tmp_path, TrainingState(step=6, rows=48, tokens=768, seconds=1.5)),
    )
    assert re.match("no losses to show: .*metrics.jsonl: no such file", summary(tmp_path, config, done))
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "small/probe/neighbour_accuracy": 0.5}\n')
    assert summary(tmp_path, config, done).startswith("6 steps, 768 tokens, ")


def test_a_start_that_a_kill_left_half_is_written_again(tmp_path, teacher_folder, monkeypatch):
    student = build_student(student_config(), teacher_model(), seed=1)

    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    (tmp_path / "tokenizer").symlink_to(teacher_folder)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(run_files.AutoTokenizer, "from_pretrained", killed)
        save_start(student, tmp_path)
    assert not (tmp_path / "start/small").exists()
    save_start(student, tmp_path)
    names = {path.name for path in (tmp_path / "start/small").iterdir()}
    assert {"model.safetensors", "tokenizer.json"} <= names and len(list((tmp_path / "start").iterdir())) == 1


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
            run_files.hold_run_folder(run, wait_seconds=0.3)
        other.kill()
    run_files.hold_run_folder(run)


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch):
    monkeypatch.setattr(durable.fcntl, "flock", Mock(side_effect=OSError(errno.ENOLCK, "No locks available")))
    with pytest.warns(UserWarning, match=r"its file system has no locks \(No locks available\)"):
        run_files.hold_run_folder(tmp_path)


def test_ranks_may_have_their_inputs_at_other_paths_and_no_others(monkeypatch):
    def given(path, keep, weights):
        init = [{"init": {"student": path, "layers": keep}}]
        config = {"teacher": {"path": path}, "students": init, "student": path, "training": {"keep_checkpoints": keep}}
        config |= {"probe": {"heldout": path, "task": {"dev": path}}, "stages": {"ged": {"config": path}}}
        return config, {"student": {"weights": weights}}

    problems: list[str | None] = []
    monkeypatch.setattr(run_files, "on_rank_zero", lambda action: given("a", 1, "0"))
    monkeypatch.setattr(run_files, "raise_together", problems.append)
    run_files.check_alike(*given("b", 1, "0"))
    run_files.check_alike(*given("a", 2, "1"))
    other = "students.0.init.layers, training.keep_checkpoints, student.weights"
    assert problems == [None, f"differs from rank 0 in {other}"]


def test_a_host_that_does_not_see_the_run_folder_is_an_error(tmp_path, monkeypatch):
    problems: list[str | None] = []
    monkeypatch.setattr(run_files, "raise_together", problems.append)
    (tmp_path / "config.json").touch()
    check_shared(tmp_path / "config.json")
    check_shared(tmp_path / "none.json", wait_seconds=0)
    assert problems[0] is None and problems[1].startswith(f"{tmp_path / 'none.json'}: written by rank 0, but does not")


def test_a_run_keeps_its_kernels_where_its_configuration_leaves_the_choice(tmp_path, config_file, monkeypatch):
    monkeypatch.setattr(run_files, "on_rank_zero", lambda action: action())
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
