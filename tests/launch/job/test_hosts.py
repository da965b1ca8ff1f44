"""The main job on two hosts: killed or cut off, both sides stop, and a relaunch ends with the same bits."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.launch.hosts import Host, TwoHosts, two_hosts
from tests.launch.jobs import ROOT, SAVE_EVERY_STEPS, Job, assert_same_end, newest_step

pytestmark = pytest.mark.job

TIMEOUT_SECONDS = 20  # ranks that start on two busy cores come ten seconds apart
PATIENCE = ("--set", f"training.collective_timeout_seconds={TIMEOUT_SECONDS}")
NOTICE_SECONDS = TIMEOUT_SECONDS + 30  # ranks leave after three, launchers some seconds later, on two busy cores more
LOST = "stopped: the connection to another rank broke: its process or host is gone, or the network failed ("
CUT_OFF = f"stopped: other ranks did not answer within {TIMEOUT_SECONDS} s (training.collective_timeout_seconds)"

Launcher = Callable[[TwoHosts], list[tuple[Host, list[str]]]]


def without_ssh(pair: TwoHosts) -> list[tuple[Host, list[str]]]:
    """`deepspeed --hostfile H --no_ssh --node_rank R` on each host."""
    command = [sys.executable, "-m", "deepspeed.launcher.runner", "--hostfile", str(pair.folder / "hostfile"),
               "--no_ssh", "--master_addr", pair.hosts[0].address, "-q", "--node_rank"]  # fmt: skip
    return [(host, [*command, str(rank), "launch/gd.py"]) for rank, host in enumerate(pair.hosts)]


def over_ssh(pair: TwoHosts) -> list[tuple[Host, list[str]]]:
    """`deepspeed --hostfile H` on host0, by the recipe: pdsh and ssh start the rest."""
    if not pair.has_ssh:
        pytest.skip("pdsh, ssh and sshd are not installed")
    return [(pair.hosts[0], ["launch/recipes/hosts.sh"])]


def by_torchrun(pair: TwoHosts) -> list[tuple[Host, list[str]]]:
    """`torchrun --nnodes 2` on each host."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1",
               "--master-addr", pair.hosts[0].address, "--node-rank"]  # fmt: skip
    return [(host, [*command, str(rank), "--", "launch/gd.py"]) for rank, host in enumerate(pair.hosts)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Iterator[TwoHosts]:
    with two_hosts(tmp_path_factory.mktemp("hosts")) as pair:
        yield pair


@contextmanager
def launched(pair: TwoHosts, launcher: Launcher, config: Path, run: Path) -> Iterator[list[Job]]:
    """The job on both hosts, as one launch a host that something is typed on."""
    path = f"{ROOT / '.venv/bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {
        "GLOO_SOCKET_IFNAME": "eth0",
        "PATH": path,
        "HOSTFILE": str(pair.folder / "hostfile"),
        "INTERFACE": "eth0",
        "MORE_VARIABLES": "OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu",
    }
    with ExitStack() as stack:
        yield [
            stack.enter_context(Job([*host.enter, *command], config, run, *PATIENCE, environment=environment))
            for host, command in launcher(pair)
        ]


def seconds_until_empty(pair: TwoHosts, jobs: list[Job], limit_seconds: float) -> list[float]:
    """For each host, how long until no process of the job was left on it."""
    start, seconds = time.monotonic(), [0.0, 0.0]
    while any(left := [host.processes() for host in pair.hosts]):
        now = time.monotonic() - start
        seconds = [now if here else until for here, until in zip(left, seconds, strict=True)]
        assert now < limit_seconds, f"{left}\n{said(jobs)}"
        time.sleep(0.1)
    return seconds


def said(jobs: list[Job]) -> str:
    return "".join(job.said for job in jobs)


def is_saving(run: Path) -> bool:
    return any(run.glob("checkpoints/.step_*.partial"))


def disturb(pair: TwoHosts, jobs: list[Job], what: str) -> None:
    """Waits for the moment, and does it."""
    jobs[0].until_step(SAVE_EVERY_STEPS + 5)
    if what == "link cut in the save":
        jobs[0].until(lambda: is_saving(jobs[0].run))
    if what.startswith("link"):
        pair.cut()
    else:
        pair.hosts[int(what[5])].kill_all()


def check_stop(launcher: Launcher, what: str, jobs: list[Job]) -> list[int]:
    """Who is left says why it stopped, in a line and with an exit code; gives the codes of what was typed."""
    codes = [job.process.wait(30) for job in jobs]
    left = [job for job, code in zip(jobs, codes, strict=True) if code != -signal.SIGKILL]
    assert len(left) == len(jobs) - (what == "host 0 killed" or (what == "host 1 killed" and len(jobs) == 2))
    for job in left:
        assert (CUT_OFF if what.startswith("link") else LOST) in job.said, job.said
        assert 'gd.py", line' not in job.said and job.said.count("] stopped: ") == 1, job.said
    expected = {without_ssh: 76, over_ssh: 255, by_torchrun: 1}[launcher]  # 255: what pdsh makes of a lost host
    assert [code for code in codes if code != -signal.SIGKILL] == [expected] * len(left)
    return codes


def stop_and_relaunch(pair: TwoHosts, launcher: Launcher, what: str, config: Path, run: Path) -> dict[str, object]:
    """The job disturbed once, then run to its end; the row of a table."""
    with launched(pair, launcher, config, run) as jobs:
        disturb(pair, jobs, what)
        try:
            seconds = seconds_until_empty(pair, jobs, NOTICE_SECONDS)
        finally:
            pair.renew()
        codes = check_stop(launcher, what, jobs)
    before = newest_step(run)
    with launched(pair, launcher, config, run) as jobs:
        assert [job.wait() for job in jobs] == [0] * len(jobs), said(jobs)
    return {"launcher": launcher.__name__, "what": what, "host0 gone after s": f"{seconds[0]:.1f}",
            "host1": f"{seconds[1]:.1f}", "exit codes": codes, "goes on from step": before}  # fmt: skip


def test_hosts_end_with_whoever_made_them(pair, tmp_path):
    """Killed, it closes nothing itself."""
    program = """
import os, signal, sys
from pathlib import Path
from tests.launch.hosts import TwoHosts
print(*(host.pid for host in TwoHosts(Path(sys.argv[1])).hosts), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=120
    )
    assert done.returncode == -signal.SIGKILL
    left, end = [Path("/proc", pid) for pid in done.stdout.split()], time.monotonic() + 20
    assert len(left) == 2
    while any(process.exists() for process in left):
        assert time.monotonic() < end, "a host outlived the process that made it"
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["host 1 killed", "host 0 killed", "link cut", "link cut in the save"])
@pytest.mark.parametrize("launcher", [without_ssh, over_ssh, by_torchrun])
def test_whatever_happens_to_a_host_changes_no_bit(
    pair, disturbed_config, undisturbed, tmp_path, capsys, launcher, what
):
    row = stop_and_relaunch(pair, launcher, what, disturbed_config, tmp_path / "run")
    with capsys.disabled():
        print("", *(f"{name}: {value}" for name, value in row.items()), sep=" | ")
    assert_same_end(tmp_path / "run", undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [without_ssh, over_ssh, by_torchrun])
def test_two_hosts_end_as_one_does(pair, disturbed_config, undisturbed, tmp_path, launcher):
    with launched(pair, launcher, disturbed_config, tmp_path / "run") as jobs:
        assert [job.wait() for job in jobs] == [0] * len(jobs), said(jobs)
    assert_same_end(tmp_path / "run", undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("missing", [0, 1])
def test_a_host_that_never_comes_is_waited_for_no_longer(pair, disturbed_config, tmp_path, missing):
    def all_but_one(pair: TwoHosts) -> list[tuple[Host, list[str]]]:
        return [without_ssh(pair)[1 - missing]]

    with launched(pair, all_but_one, disturbed_config, tmp_path / "run") as (job,):
        assert job.wait(90) == 76, job.said
        assert f"[rank {1 - missing}] {CUT_OFF}" in job.said and 'gd.py", line' not in job.said, job.said


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_pdsh_hands_on_that_the_launcher_was_stopped(pair, disturbed_config, undisturbed, tmp_path, number):
    """SIGKILL is for pdsh and its ssh too: without it the job goes on, as if nothing had happened to `deepspeed`."""
    run = tmp_path / "run"
    with launched(pair, over_ssh, disturbed_config, run) as jobs:
        jobs[0].until_step(SAVE_EVERY_STEPS + 5)
        names = ["bin/deepspeed --hostfile", "pdsh -S", "ssh -o"][: 3 if number == signal.SIGKILL else 1]
        for pid, command in pair.hosts[0].processes().items():
            if any(name in command for name in names):
                os.kill(pid, number)
        seconds_until_empty(pair, jobs, NOTICE_SECONDS)
    assert newest_step(run) > SAVE_EVERY_STEPS and not (run / "done.json").exists()
    with launched(pair, over_ssh, disturbed_config, run) as jobs:
        assert [job.wait() for job in jobs] == [0], said(jobs)
    assert_same_end(run, undisturbed)
