"""Workers: a failed one is reported while others run, and each gets a GPU that the user allows."""

import io
import subprocess
import sys
from types import SimpleNamespace

import pytest

from launch.evaluation import workers
from launch.evaluation.workers import run_workers
from launch.job.rank import STOPPED
from pretrain.engines.deepspeed_config import AutocastConfig

PRECISION = AutocastConfig(enabled=True, dtype="float16")
EVALUATION = SimpleNamespace(config=SimpleNamespace(deepspeed=SimpleNamespace(torch_autocast=PRECISION)))


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs workers that are these programs; gives the exit code."""
    monkeypatch.setattr(workers, "num_cells", lambda *_: 2)
    monkeypatch.setattr(workers, "num_made", lambda *_: 0)

    def run_programs(*programs, stop=0):
        def start(index, num_workers, log, precision):
            with log.open("wb") as file:
                return subprocess.Popen([sys.executable, "-c", programs[index]], stdout=file, stderr=file)

        monkeypatch.setattr(workers, "_start", start)
        return run_workers(EVALUATION, tmp_path, len(programs), SimpleNamespace(reason=stop))

    return run_programs


def test_a_worker_that_dies_is_shown_at_once_and_the_others_end_their_work(run, monkeypatch, tmp_path):
    """The other one works until the failure is shown."""
    shown, failure_of = tmp_path / "shown", workers._failure

    def failure(log, code):
        shown.write_text(failure_of(log, code))
        return shown.read_text()

    monkeypatch.setattr(workers, "_failure", failure)
    works = (
        "import pathlib, sys, time\nwhile not pathlib.Path({!r}).exists(): time.sleep(0.01)\npathlib.Path({!r}).touch()"
    )
    other = works.format(str(shown), str(tmp_path / "made"))
    assert run(other, "print('no memory'); raise SystemExit(3)") == 1
    assert shown.read_text().endswith("-1.log: the worker failed with exit code 3:\nno memory")
    assert (tmp_path / "made").exists()


def test_workers_that_stop_or_are_stopped_have_not_failed(run, capfd):
    assert run("pass", f"raise SystemExit({STOPPED})") == STOPPED
    assert run("import time; time.sleep(60)", stop=15) == STOPPED
    said = capfd.readouterr().err
    assert said.count("stopped; run again to resume") == 2 and "failed" not in said
    assert run("pass", "pass") == 0


def test_cells_are_counted_by_whatever_worker_made_them(run, monkeypatch):
    said = io.StringIO()
    said.isatty = lambda: True
    made = iter([1, 1, 1, 2, 2])  # before the workers start, to see whether there is work, and at each look
    monkeypatch.setattr(workers, "num_cells", lambda *_: 3)
    monkeypatch.setattr(workers, "num_made", lambda *_: next(made, 3))
    monkeypatch.setattr(workers, "_COUNT_SECONDS", 0)
    monkeypatch.setattr("sys.stderr", said)
    assert run("import time; time.sleep(2)") == 0
    assert "fine-tuning:  33%" in said.getvalue() and "| 3/3 [" in said.getvalue()


@pytest.mark.parametrize(("allowed", "given"), [("4,5", ["4", "5", "4"]), ("", ["0", "1", "0"])])
def test_each_worker_is_a_world_with_one_of_the_gpus_that_the_user_allows(monkeypatch, tmp_path, allowed, given):
    seen = []
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
    monkeypatch.setattr(workers.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(workers.subprocess, "Popen", lambda command, env, **_: seen.append((command, env)))
    for index in range(3):
        workers._start(index, 3, tmp_path / "log", PRECISION)
    assert [env["CUDA_VISIBLE_DEVICES"] for _, env in seen] == given
    assert not any("RANK" in env or "WORLD_SIZE" in env for _, env in seen), "the launcher's world is not the workers'"
    settled = 'deepspeed.torch_autocast={"enabled":true,"dtype":"float16"}'
    assert all(command[-3:] == ["--worker", "--set", settled] for command, _ in seen)
