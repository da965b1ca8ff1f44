"""The main job under launchers other than deepspeed's, by the recipes in launch/recipes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from deepspeed.launcher.multinode_runner import PDSHRunner

from tests.launch.jobs import ROOT, SAVE_EVERY_STEPS, Job, assert_same_end, free_port, logged_step, newest_step
from tests.launch.slurm import PROGRAMS, Slurm

pytestmark = pytest.mark.job


def torchrun() -> dict[str, str]:
    path = f"{ROOT / '.venv/bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {"RANKS_PER_HOST": "2", "PATH": path}


@pytest.mark.parametrize(
    ("recipe", "environment", "message"),
    [
        ("hosts.sh", {"HOSTFILE": "none", "INTERFACE": "eth0"}, "HOSTFILE=none: cannot be read"),
        ("hosts.sh", {"HOSTFILE": "none"}, "INTERFACE: the network interface that joins the hosts"),
        ("host.sh", {"HOST_INDEX": "0", "NUM_HOSTS": "2"}, "RANKS_PER_HOST: one a GPU"),
        ("torchrun.sh", {"NUM_HOSTS": "2"}, "FIRST_HOST: the host where all meet"),
    ],
)
def test_a_recipe_that_lacks_something_starts_nothing(recipe, environment, message):
    command = [ROOT / "launch/recipes" / recipe, "--config", "none"]
    environment |= {"PATH": os.environ["PATH"]}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and message in done.stderr


def test_json_keeps_its_quotes_on_the_way_to_other_hosts(tmp_path):
    """`deepspeed` says what it is given; its runner for pdsh quotes for the hosts' shells what has a blank."""
    (tmp_path / "deepspeed").write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    (tmp_path / "deepspeed").chmod(0o755)
    (hosts := tmp_path / "hosts").write_text("node1 slots=1\n")
    environment = {"HOSTFILE": str(hosts), "INTERFACE": "eth0", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    given = ["--run", "a b", "--set", 'students.0.init={"student":"s,t"}', "rates=[1,2]", "training.seed=3"]
    command = [ROOT / "launch/recipes/hosts.sh", *given]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    said = done.stdout.splitlines()[-len(given) :]
    assert said == [*given[:3], given[3] + " ", given[4] + " ", given[5]]
    quoted = PDSHRunner.parse_user_args(SimpleNamespace(args=SimpleNamespace(user_args=said)))
    command = ["bash", "-c", f"printf '%s\n' {' '.join(quoted)}"]
    shell = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert [line.rstrip() for line in shell.stdout.splitlines()] == given


@pytest.mark.slow
def test_torchruns_agent_brings_back_a_rank_that_was_killed(disturbed_config, undisturbed, tmp_path):
    with Job(["launch/recipes/torchrun.sh"], disturbed_config, tmp_path / "run", environment=torchrun()) as job:
        job.until_step(SAVE_EVERY_STEPS + 5)
        os.kill(job.ranks()[1], signal.SIGKILL)
        assert job.wait() == 0, job.said
        assert "the connection to another rank broke" in job.said
    assert_same_end(tmp_path / "run", undisturbed)


def host(folder: Path, python: str) -> subprocess.Popen[str]:
    """host.sh for three ranks, with a `python` of these lines of bash."""
    (folder / "python").write_text(f"#!/bin/bash\n{python}\n")
    (folder / "python").chmod(0o755)
    environment = {"HOST_INDEX": "1", "NUM_HOSTS": "2", "RANKS_PER_HOST": "3", "PATH": f"{folder}:{os.environ['PATH']}"}
    command = [ROOT / "launch/recipes/host.sh", "--config", "a b"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def test_a_hosts_ranks_know_their_places(tmp_path):
    process = host(tmp_path, 'echo "$RANK $LOCAL_RANK $WORLD_SIZE $1 $2 $3"')
    said, _ = process.communicate(timeout=60)
    assert sorted(said.splitlines()) == [f"{3 + i} {i} 6 launch/gd.py --config a b" for i in range(3)]
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("codes", "code"),
    [
        ("0 0 0", 0),
        ("75 75 75", 75),
        ("75 76 75", 76),
        ("76 134 76", 76),
        ("76 1 76", 1),
        ("76 76 2", 2),
        ("0 143 75", 75),
    ],
)
def test_a_host_leaves_with_the_code_that_says_most(tmp_path, codes, code):
    process = host(tmp_path, f"codes=({codes}); exit ${{codes[$LOCAL_RANK]}}")
    assert process.wait(timeout=60) == code


def test_a_host_hands_a_signal_on_and_waits_for_its_ranks(tmp_path):
    wait = "while :; do sleep 0.05; done"
    process = host(tmp_path, f"trap 'sleep 0.3; echo saved; exit 75' TERM; echo ready; {wait}")
    assert process.stdout and [process.stdout.readline() for _ in range(3)] == ["ready\n"] * 3
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert (process.returncode, said) == (75, "saved\n" * 3)


def test_a_rank_that_a_signal_ends_before_it_listens_is_not_waited_for(tmp_path):
    process = host(tmp_path, "echo ready; [ $LOCAL_RANK -ne 1 ] || kill -TERM $$; exec sleep 0.2")
    assert process.wait(timeout=60) == 75


def test_a_signal_while_ranks_are_started_reaches_all_of_them(tmp_path):
    """The first rank sends it, before the others are there."""
    wait = "while :; do sleep 0.05; done"
    process = host(tmp_path, f"trap 'echo saved; exit 75' TERM; [ $LOCAL_RANK -ne 0 ] || kill -TERM $PPID; {wait}")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 75 and set(said.splitlines()) <= {"saved"}


@pytest.mark.slow
def test_a_host_stops_and_goes_on_to_the_same_weights(disturbed_config, undisturbed, tmp_path):
    places = {"HOST_INDEX": "0", "NUM_HOSTS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    for step, code in ((SAVE_EVERY_STEPS + 5, 75), (None, 0)):
        with Job(
            ["launch/recipes/host.sh"], disturbed_config, tmp_path / "run", environment=torchrun() | places
        ) as job:
            if step:
                job.until_step(step)
                job.process.send_signal(signal.SIGTERM)
            assert job.wait() == code, job.said
    assert_same_end(tmp_path / "run", undisturbed)


@pytest.mark.slow
def test_mpirun_hands_on_the_signal_and_the_exit_code(disturbed_config, undisturbed, tmp_path):
    if not shutil.which("mpirun"):
        pytest.skip("mpirun is not installed")
    mpirun = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-np", "2", sys.executable, "launch/gd.py"]
    with Job(mpirun, disturbed_config, tmp_path / "run") as job:
        job.until_step(20)
        job.process.send_signal(signal.SIGUSR1)
        assert job.wait() == 75, job.said
        assert f"[rank 0] stopped at step {newest_step(tmp_path / 'run')}: SIGUSR1" in job.said
    with Job(mpirun, disturbed_config, tmp_path / "run") as job:
        assert job.wait() == 0, job.said
    assert_same_end(tmp_path / "run", undisturbed)


@pytest.fixture
def slurm(tmp_path):
    for program in PROGRAMS:
        if not shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin"):
            pytest.skip(f"{program} is not installed")
    if os.getuid():
        pytest.skip("only root may start a Slurm")
    cluster = Slurm(tmp_path / "slurm")
    yield cluster
    cluster.stop()


@pytest.mark.slow
def test_slurm_stops_and_requeues_to_the_same_weights(slurm, disturbed_config, undisturbed, tmp_path):
    """One job: USR1 as before its time is up, then TERM as at a preemption; its own script brings it back."""
    run, log = tmp_path / "run", tmp_path / "job.log"
    path = f"{Path(sys.executable).parent}:{slurm.environment['PATH']}"
    slurm.environment |= {"PATH": path, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    recipe = ["launch/recipes/slurm.sbatch", "--config", str(disturbed_config), "--run", str(run)]
    smaller = ["--gpus-per-node=0", "--cpus-per-task=1"]  # than what the recipe asks for
    job = slurm.ask("sbatch", "--parsable", "--chdir", str(ROOT), "--output", str(log), *smaller, *recipe)

    def until(condition, seconds: float = 90) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, log.read_text() if log.exists() else slurm.state(job)
            time.sleep(0.01)

    for number, (name, step) in enumerate([("USR1", 25), ("TERM", 75)], 1):
        until(lambda step=step: logged_step(run) >= step)
        slurm.ask("scancel", f"--signal={name}", job)
        until(lambda name=name: f": SIG{name}; run again to resume" in log.read_text())
        until(lambda number=number: slurm.state(job).get("Restarts") == str(number))
        assert newest_step(run) >= step
    until(lambda: slurm.state(job).get("JobState") == "COMPLETED")
    assert_same_end(run, undisturbed)
