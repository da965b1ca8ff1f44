"""Stopping the main job under the real launcher: one step on all ranks, a checkpoint, exit code 75, no process left."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.launch.jobs import ROOT, Job, deepspeed_command, logged_step, newest_step
from tests.processes import places_of

pytestmark = pytest.mark.job


@pytest.fixture(scope="module")
def long_config(tmp_path_factory, config_values):
    """As the tiny config, but it would take minutes."""
    training = {"total_steps": 100_000, "log_every_steps": 1, "save_every_steps": 50_000}
    path = tmp_path_factory.mktemp("config") / "long.json"
    deepspeed = config_values["deepspeed"] | {"torch_autocast": {"enabled": False}}
    path.write_text(json.dumps(config_values | {"training": training, "deepspeed": deepspeed}))
    return path


def check_stop(jobs: list[Job], code: int | None, reason: str, before: int) -> int:
    """What was disturbed at a step after `before` leaves with this code, and a checkpoint, whose step is given."""
    assert all(job.wait() == code or code is None for job in jobs), jobs[0].said
    step, said = newest_step(jobs[0].run), "".join(job.said for job in jobs)
    assert re.search(f"stopped at step {step}: ({reason}); run again to resume", said), said
    assert step >= before + 5 and said.count("stopped") == 1
    assert 'gd.py", line' not in said  # no traceback of ours; the launcher shows one of its own at Ctrl-C
    assert not (jobs[0].run / "done.json").exists()
    return step


DISTURBANCES = {
    "a rank": (75, "SIGTERM", lambda job: os.kill(job.ranks()[0], signal.SIGTERM)),
    "Ctrl-C": (None, "SIGINT|SIGTERM", lambda job: os.killpg(job.process.pid, signal.SIGINT)),
    "the launcher": (-signal.SIGTERM, "the launcher is gone", lambda job: job.process.terminate()),
    "the launcher at once": (-signal.SIGKILL, "the launcher is gone", lambda job: job.process.kill()),
}


# The slow ones: each costs a launch
@pytest.mark.parametrize(
    "ways",
    [
        ["the launcher at once"],
        pytest.param(["a rank", "Ctrl-C", "the launcher"], marks=pytest.mark.slow),
    ],
)
def test_signals_and_lost_launchers_end_every_rank_with_a_checkpoint(long_config, tmp_path, ways):
    """One run, stopped again and again, each time in another way, and going on from there."""
    step = 0
    for code, reason, disturb in map(DISTURBANCES.__getitem__, ways):
        with Job(deepspeed_command(), long_config, tmp_path / "run") as job:
            job.until_step(step + 5)
            disturb(job)
            step = check_stop([job], code, reason, step)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_rank_ends_both_with_a_checkpoint(long_config, tmp_path, rank):
    with ExitStack() as stack:
        jobs = [stack.enter_context(Job(None, long_config, tmp_path / "run", environment=at)) for at in places_of(2)]
        jobs[0].until_step(5)
        jobs[rank].process.send_signal(signal.SIGUSR1)
        check_stop(jobs, 75, "SIGUSR1", 0)


def test_signals_before_training_end_it_before_training_or_at_once(long_config, tmp_path):
    """A world of one, started by hand."""
    with Job([sys.executable, "launch/gd.py"], long_config, tmp_path / "run") as job:
        job.until(lambda: listens(job.process.pid))
        job.process.send_signal(signal.SIGUSR1)
        assert job.wait() == 75, job.said
        next_command = f"next: python launch/gd.py --run {tmp_path / 'run'}\n"
        assert job.said.endswith(f"[rank 0] stopped at step 0: SIGUSR1; run again to resume\n{next_command}")
        assert not list((tmp_path / "run").glob("checkpoints/step_*"))
    with Job([sys.executable, "launch/gd.py"], long_config, tmp_path / "run") as job:
        job.until(lambda: listens(job.process.pid))
        job.process.send_signal(signal.SIGTERM)
        time.sleep(2.5)
        job.process.send_signal(signal.SIGTERM)
        assert job.wait() in (75, 128 + signal.SIGTERM), job.said


def on_terminal(*arguments: str) -> tuple[int, int]:
    """The main job on a terminal of its own, as its foreground process: its pid, and the other end of the terminal."""
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(ROOT)
        os.execve(
            sys.executable,
            [sys.executable, "launch/gd.py", *arguments],
            os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
        )
    return pid, terminal


def until_step(run: Path, step: int, terminal: int) -> str:
    """What is said on the terminal until the run logs a step."""
    said, end = b"", time.monotonic() + 120
    while logged_step(run) < step:
        assert time.monotonic() < end, said
        if select.select([terminal], [], [], 0.05)[0]:
            said += os.read(terminal, 65536)
    return said.decode(errors="replace")


def rest(terminal: int) -> str:
    """What is said until the terminal's last process has left."""
    said = b""
    with suppress(OSError):
        while data := os.read(terminal, 65536):
            said += data
    return said.decode(errors="replace")


def test_ctrl_c_and_a_terminal_that_closes_end_in_a_checkpoint(long_config, tmp_path):
    run = tmp_path / "run"
    pid, terminal = on_terminal("--config", str(long_config), "--run", str(run))
    until_step(run, 5, terminal)
    os.write(terminal, b"\x03")
    said = rest(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 75, said
    answer = "[rank 0] SIGINT: stopping after this step, then saving; about"
    assert said.index(answer) < said.index("[rank 0] stopped at step ")
    assert "Traceback" not in said and f"next: python launch/gd.py --run {run}" in said
    before = newest_step(run)
    pid, terminal = on_terminal("--run", str(run))
    said = until_step(run, before + 5, terminal)
    assert f"resuming from {run / 'checkpoints' / f'step_{before}'}" in said
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 75
    assert newest_step(run) >= before + 5


def listens(pid: int) -> bool:
    """Whether a process has a handler for SIGUSR1."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (signal.SIGUSR1 - 1) & 1)


def test_a_launcher_environment_that_makes_no_sense_is_refused(long_config, tmp_path):
    with Job([sys.executable, "launch/gd.py"], long_config, tmp_path / "run", environment={"RANK": "0"}) as job:
        assert job.wait() == 2
        assert job.said == "error: the launcher's environment is incomplete: LOCAL_RANK is not set\n"


def test_a_job_trains_on_when_nobody_reads_its_output(config_file, tmp_path):
    """As when ssh, or a pager, goes before the job does."""
    command = [sys.executable, "launch/gd.py", "--config", str(config_file), "--run", str(tmp_path / "run")]
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.Popen(command, cwd=ROOT, stdout=writer, stderr=writer)
    os.close(writer)
    assert process.wait(120) == 0
    assert (tmp_path / "run/done.json").exists()
