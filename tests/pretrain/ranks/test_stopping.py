"""Signals are handled at once, whatever the main thread does; a second one ends the process."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from pretrain.ranks.stopping import StopReason, StopRequest

ROOT = Path(__file__).parents[3]
WAITS = """
import ctypes, signal, sys
from pretrain.ranks.stopping import StopRequest, ignore_stop_requests
stop = StopRequest(int(sys.argv[1]), lambda text: print(text, file=sys.stderr, flush=True))
print("ready", flush=True)
if sys.argv[2] == "ignore":
    ignore_stop_requests()
    print("ignoring", flush=True)
while not (stop.reason and sys.argv[2] == "poll"):
    ctypes.CDLL(None).usleep(50_000)
print(int(stop.reason), flush=True)
"""


@pytest.fixture
def start():
    """A process that waits, by polling its StopRequest or deaf in C."""
    started = []

    def run(generations: int = 0, mode: str = "poll", before: tuple[str, ...] = ()) -> subprocess.Popen:
        command = [*before, sys.executable, "-c", WAITS, str(generations), mode]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
        started.append(process)
        for expected in ["ready", "ignoring"][: 1 + (mode == "ignore")]:
            assert process.stdout.readline().strip() == expected
        return process

    yield run
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_is_noted_and_named(start, number):
    process = start()
    process.send_signal(number)
    assert int(process.communicate(timeout=20)[0]) == number
    assert str(StopReason(number)) == number.name


def test_a_second_signal_ends_a_process_that_hangs_but_the_launchers_echo_does_not(start):
    process = start(mode="hang")
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)  # what a launcher makes of Ctrl-C
    process.send_signal(signal.SIGUSR1)
    time.sleep(2.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGTERM


def test_the_first_signal_after_a_warning_by_slurm_ends_nothing(start):
    process = start(mode="hang")
    process.send_signal(signal.SIGUSR1)
    time.sleep(2.5)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None


def test_a_process_that_is_exiting_ignores_signals(start):
    process = start(mode="ignore")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        process.send_signal(number)
    time.sleep(0.5)
    assert process.poll() is None


def test_a_request_is_answered_at_once_and_once_while_the_process_is_busy(start):
    process = start(mode="hang")
    process.send_signal(signal.SIGTERM)
    second = "a second SIGTERM or Ctrl-C stops at once"
    assert process.stderr.readline() == f"SIGTERM: stopping before the first step; now: starting ({second})\n"
    process.send_signal(signal.SIGINT)  # what Ctrl-C adds under a launcher
    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    process.kill()
    assert process.stderr.read() == ""


def test_the_answer_names_the_phase_and_never_blocks_the_next_signal(monkeypatch):
    """Printing may hang, as where a pager that nobody turns reads it."""
    monkeypatch.setattr(StopRequest, "__init__", lambda self: None)
    stop, said, read = StopRequest(), [], threading.Event()
    stop.reason, stop._first_end, stop.waits_for = StopReason.NONE, float("inf"), lambda: "after this step"

    def hang(text):
        said.append(text)
        read.wait()

    stop._say = hang
    stop._handle(signal.SIGUSR1)
    stop._handle(signal.SIGTERM)
    assert stop.reason == signal.SIGUSR1 and stop._first_end < float("inf")
    read.set()
    assert said == ["SIGUSR1: stopping after this step (a second SIGTERM or Ctrl-C stops at once)"]


def test_a_closed_terminal_ends_nothing_under_nohup(start):
    process = start(before=("nohup",))
    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGUSR1)
    assert int(process.communicate(timeout=20)[0]) == signal.SIGUSR1


def test_a_closed_terminal_followed_by_a_sigterm_ends_nothing(start):
    process = start(mode="hang")
    process.send_signal(signal.SIGHUP)
    time.sleep(2.5)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None


def test_a_launcher_that_died_before_it_was_looked_for_is_noticed(start):
    """Of the two of them one has a name that starts nothing, as the process that adopts orphans."""
    renamed = "import ctypes, subprocess, sys; ctypes.CDLL(None).prctl(15, b'tini'); subprocess.run(sys.argv[1:])"
    process = start(2, "poll", (sys.executable, "-c", renamed))
    assert int(process.stdout.readline()) == StopReason.LAUNCHER_GONE


def test_a_launcher_that_dies_is_noticed(start):
    """The shell in between is the launcher."""
    process = start(1, "poll", ("sh", "-c", '"$@"; true', "launcher"))
    os.kill(process.pid, signal.SIGKILL)
    assert int(process.stdout.readline()) == StopReason.LAUNCHER_GONE
    assert process.stderr.readline().startswith("the launcher is gone: stopping before the first step")
    assert max(signal.valid_signals()) < StopReason.SLOW_STEP


def test_a_launcher_whose_first_process_is_gone_can_kill_its_ranks_no_more(start):
    """Ctrl-C ends the first process of the deepspeed launcher; the second kills the ranks half a minute later."""
    process = start(2, "hang", ("sh", "-c", """sh -c 'echo $$ >&2; "$@"; true' launcher "$@"; true""", "runner"))
    second = int(process.stderr.readline())
    os.kill(process.pid, signal.SIGKILL)
    assert process.stderr.readline().startswith("the launcher is gone: stopping")
    for _ in range(200):
        if not Path(f"/proc/{second}").exists() or "Z" in Path(f"/proc/{second}/stat").read_text().split()[2]:
            break
        time.sleep(0.05)
    else:
        pytest.fail(f"{second} is still there")
