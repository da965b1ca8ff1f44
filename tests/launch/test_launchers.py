"""The main job under the launchers that are not deepspeed's, by the recipes that a user copies."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.launch.jobs import ROOT, Job, logged_step, newest_step
from tests.launch.slurm import PROGRAMS, Slurm


@pytest.fixture(scope="module")
def config(tmp_path_factory, config_values) -> Path:
    training = {"total_steps": 400, "log_every_steps": 1, "save_every_steps": 100}
    path = tmp_path_factory.mktemp("config") / "launched.json"
    path.write_text(json.dumps(config_values | {"training": training}))
    return path


def weights(run: Path) -> dict[str, torch.Tensor]:
    assert json.loads((run / "done.json").read_text())["step"] == 400
    return load_file(run / "checkpoints/step_400/small/model/model.safetensors")


@pytest.fixture(scope="module")
def undisturbed(config, tmp_path_factory) -> dict[str, torch.Tensor]:
    """The weights that every launcher must come to, by torchrun."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    with Job(["launch/recipes/torchrun.sh"], config, run, environment=torchrun()) as job:
        assert job.wait() == 0, job.said
    return weights(run)


def torchrun() -> dict[str, str]:
    path = f"{ROOT / '.venv/bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {"RANKS_PER_HOST": "2", "PATH": path}


@pytest.mark.parametrize(
    ("recipe", "environment", "message"),
    [
        ("hosts.sh", {"HOSTFILE": "none", "INTERFACE": "eth0"}, "HOSTFILE=none: cannot be read"),
        ("hosts.sh", {"HOSTFILE": "none"}, "INTERFACE: the network interface that joins the hosts"),
        ("torchrun.sh", {"NUM_HOSTS": "2"}, "FIRST_HOST: the host where all meet"),
    ],
)
def test_a_recipe_that_lacks_something_starts_nothing(recipe, environment, message):
    command = [ROOT / "launch/recipes" / recipe, "--config", "none"]
    done = subprocess.run(command, env=environment | {"PATH": os.environ["PATH"]}, capture_output=True, text=True)
    assert done.returncode != 0 and message in done.stderr


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_torchruns_agent_brings_back_a_rank_that_was_killed(config, undisturbed, tmp_path):
    with Job(["launch/recipes/torchrun.sh"], config, tmp_path / "run", environment=torchrun()) as job:
        job.until_step(120)
        os.kill(job.ranks()[1], signal.SIGKILL)
        assert job.wait() == 0, job.said
        assert "the connection to another rank broke" in job.said
    assert_same(weights(tmp_path / "run"), undisturbed)


@pytest.mark.slow
def test_mpirun_hands_on_the_signal_and_the_exit_code(config, undisturbed, tmp_path):
    if not shutil.which("mpirun"):
        pytest.skip("mpirun is not installed")
    mpirun = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-np", "2", sys.executable, "launch/gd.py"]
    with Job(mpirun, config, tmp_path / "run") as job:
        job.until_step(20)
        job.process.send_signal(signal.SIGUSR1)
        assert job.wait() == 75, job.said
        assert f"[rank 0] stopped at step {newest_step(tmp_path / 'run')}: SIGUSR1" in job.said
    with Job(mpirun, config, tmp_path / "run") as job:
        assert job.wait() == 0, job.said
    assert_same(weights(tmp_path / "run"), undisturbed)


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
def test_slurm_stops_and_requeues_to_the_same_weights(slurm, config, undisturbed, tmp_path):
    """One job: USR1 as before its time is up, then TERM as at a preemption; its own script brings it back."""
    run, log = tmp_path / "run", tmp_path / "job.log"
    path = f"{Path(sys.executable).parent}:{slurm.environment['PATH']}"
    slurm.environment |= {"PATH": path, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    recipe = ["launch/recipes/slurm.sbatch", "--config", str(config), "--run", str(run)]
    job = slurm.ask("sbatch", "--parsable", "--chdir", str(ROOT), "--output", str(log), *recipe)

    def until(condition, seconds: float = 90) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, log.read_text() if log.exists() else slurm.state(job)
            time.sleep(0.01)

    for number, (name, step) in enumerate([("USR1", 50), ("TERM", 150)], 1):
        until(lambda step=step: logged_step(run) >= step)
        slurm.ask("scancel", f"--signal={name}", job)
        until(lambda name=name: f": SIG{name}; run again to go on" in log.read_text())
        until(lambda number=number: slurm.state(job).get("Restarts") == str(number))
        assert newest_step(run) >= step
    until(lambda: slurm.state(job).get("JobState") == "COMPLETED")
    assert_same(weights(run), undisturbed)
