"""The main job on two hosts: killed or cut off, both sides stop by themselves, and a relaunch ends with the same bits."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.launch.hosts import Host, TwoHosts, two_hosts
from tests.launch.jobs import Job, assert_same_end, deepspeed_command, free_port, logged_step, newest_step

TOTAL_STEPS, SAVE_EVERY_STEPS = 240, 40
TIMEOUT_SECONDS = 8
NOTICE_SECONDS = TIMEOUT_SECONDS + 10  # a launcher looks once a second and gives its ranks time; two cores are few
LOST = "stopped: the connection to another rank broke: its process or host is gone; run again"
CUT_OFF = f"stopped: other ranks did not answer within {TIMEOUT_SECONDS} s (training.collective_timeout_seconds)"


def without_ssh(pair: TwoHosts) -> list[tuple[Host, list[str]]]:
    """`deepspeed --hostfile H --no_ssh --node_rank R` on each host."""
    port = str(free_port())
    return [
        (host, [sys.executable, "-m", "deepspeed.launcher.runner", "--hostfile", str(pair.folder / "hostfile"),
                "--no_ssh", "--node_rank", str(rank), "--master_addr", pair.hosts[0].address, "--master_port", port,
                "-q", "launch/gd.py"])
        for rank, host in enumerate(pair.hosts)
    ]  # fmt: skip


def over_ssh(pair: TwoHosts) -> list[tuple[Host, list[str]]]:
    """`deepspeed --hostfile H` on host0: pdsh and ssh start the rest."""
    command = [sys.executable, "-m", "deepspeed.launcher.runner", "--hostfile", str(pair.folder / "hostfile"),
               "--master_port", str(free_port()), "launch/gd.py"]  # fmt: skip
    return [(pair.hosts[0], command)]


def by_torchrun(pair: TwoHosts) -> list[tuple[Host, list[str]]]:
    """`torchrun --nnodes 2` on each host."""
    port = str(free_port())
    return [
        (host, [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1",
                "--node-rank", str(rank), "--master-addr", pair.hosts[0].address, "--master-port", port,
                "launch/gd.py"])
        for rank, host in enumerate(pair.hosts)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Iterator[TwoHosts]:
    with two_hosts(tmp_path_factory.mktemp("hosts")) as pair:
        pair.start_ssh()
        yield pair


@pytest.fixture(scope="module")
def config(tmp_path_factory, config_values) -> Path:
    training = {"total_steps": TOTAL_STEPS, "log_every_steps": 1, "save_every_steps": SAVE_EVERY_STEPS,
                "collective_timeout_seconds": TIMEOUT_SECONDS}  # fmt: skip
    path = tmp_path_factory.mktemp("config") / "hosts.json"
    path.write_text(json.dumps(config_values | {"training": training}))
    return path


@pytest.fixture(scope="module")
def undisturbed(config, tmp_path_factory) -> Path:
    """The same job as two ranks of one host."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    with Job(deepspeed_command(), config, run) as job:
        assert job.wait() == 0, job.said
    return run


Launcher = Callable[[TwoHosts], list[tuple[Host, list[str]]]]


@contextmanager
def launched(pair: TwoHosts, launcher: Launcher, config: Path, run: Path) -> Iterator[list[Job]]:
    """The job on both hosts, as one launch a host that something is typed on."""
    environment = {"GLOO_SOCKET_IFNAME": "eth0", "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    exported = pair.folder / "deepspeed_env"  # `.deepspeed_env` in the home folder for users
    exported.write_text("".join(f"{name}={value}\n" for name, value in environment.items()))
    environment["DS_ENV_FILE"] = str(exported)
    with ExitStack() as stack:
        yield [
            stack.enter_context(Job([*host.enter, *command], config, run, environment=environment))
            for host, command in launcher(pair)
        ]


def seconds_until_empty(pair: TwoHosts, jobs: list[Job]) -> list[float]:
    """For each host, how long until no process of the job was left on it."""
    start, seconds = time.monotonic(), [0.0, 0.0]
    while any(left := [host.processes() for host in pair.hosts]):
        now = time.monotonic() - start
        seconds = [now if here else until for here, until in zip(left, seconds, strict=True)]
        assert now < 120, f"{left}\n{said(jobs)}"
        time.sleep(0.1)
    return seconds


def said(jobs: list[Job]) -> str:
    return "".join(job.said for job in jobs)


def test_try(pair, config, undisturbed, tmp_path):
    for launcher in (without_ssh, over_ssh, by_torchrun):
      for what in ("cut", "kill"):
        run = tmp_path / (launcher.__name__ + what)
        with launched(pair, launcher, config, run) as jobs:
            t = time.time()
            jobs[0].until(lambda: logged_step(run) >= 55)
            print(launcher.__name__, what, "step 55 after", time.time() - t)
            if what == "cut":
                pair.cut()
            else:
                pair.hosts[1].kill_all()
            try:
                seconds = seconds_until_empty(pair, jobs)
            except AssertionError as e:
                seconds = str(e)
            pair.mend() if what == "cut" else pair.hosts[1].start_sshd(pair.folder)
            try:
                print([job.wait() for job in jobs])
            except Exception as e: print(e)
            print(launcher.__name__, what, seconds, logged_step(run), newest_step(run))
            for job in jobs: print("=====", job.said)
        with launched(pair, launcher, config, run) as jobs:
            print([job.wait() for job in jobs])
        assert_same_end(run, undisturbed)
