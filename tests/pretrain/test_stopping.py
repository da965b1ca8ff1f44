"""Signals are noted at once, whatever the main thread does; the second one ends the process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pretrain.stopping import LAUNCHER_GONE, explain_stop

ROOT = Path(__file__).parents[2]
WAITS = """
import ctypes, signal, sys
from pretrain.stopping import StopRequest, ignore_stop_requests
stop = StopRequest(int(sys.argv[1]))
print("ready", flush=True)
if sys.argv[2] == "ignore":
    ignore_stop_requests()
    print("ignoring", flush=True)
while not (stop.number and sys.argv[2] == "poll"):
    ctypes.CDLL(None).usleep(50_000)
print(stop.number, flush=True)
"""


@pytest.fixture
def start():
    """A process that waits, by polling its StopRequest or deaf in C."""
    started = []

    def run(generations: int = 0, mode: str = "poll", before: tuple[str, ...] = ()) -> subprocess.Popen:
        command = [*before, sys.executable, "-c", WAITS, str(generations), mode]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        started.append(process)
        for expected in ["ready", "ignoring"][: 1 + (mode == "ignore")]:
            assert process.stdout.readline().strip() == expected
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_is_noted_and_named(start, number):
    process = start()
    process.send_signal(number)
    assert int(process.communicate(timeout=20)[0]) == number
    assert explain_stop(number) == number.name


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


def test_who_is_leaving_already_heeds_nothing(start):
    process = start(mode="ignore")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        process.send_signal(number)
    time.sleep(0.5)
    assert process.poll() is None


def test_a_launcher_that_died_before_it_was_looked_for_is_noticed(start):
    """Of the two of them one has a name that starts nothing, as the process that adopts orphans."""
    renamed = "import ctypes, subprocess, sys; ctypes.CDLL(None).prctl(15, b'tini'); subprocess.run(sys.argv[1:])"
    process = start(2, "poll", (sys.executable, "-c", renamed))
    assert int(process.stdout.readline()) == LAUNCHER_GONE


def test_a_launcher_that_dies_is_noticed(start):
    """The shell in between is the launcher."""
    process = start(1, "poll", ("sh", "-c", '"$@"; true', "launcher"))
    os.kill(process.pid, signal.SIGKILL)
    assert int(process.stdout.readline()) == LAUNCHER_GONE
    assert explain_stop(LAUNCHER_GONE) == "the launcher is gone"
