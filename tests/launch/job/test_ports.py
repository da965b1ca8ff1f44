"""A second run on a host, whose launcher gives it a port that the first has."""

import os
import socket
import subprocess
import sys

import pytest

from tests.launch.jobs import ROOT

pytestmark = [pytest.mark.job, pytest.mark.slow]


@pytest.mark.parametrize(("num_ranks", "code"), [(1, 0), (2, 2)])
def test_a_port_in_use_under_deepspeed(config_file, tmp_path, num_ranks, code):
    """One rank needs no port of its launcher's; several are refused, for running again would not help."""
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = str(other.getsockname()[1])
        launcher = [sys.executable, "-m", "deepspeed.launcher.runner", "--num_gpus", str(num_ranks)]
        done = subprocess.run(
            [*launcher, "--master_port", port, "launch/gd.py", "--config", config_file, "--run", tmp_path / "run"],
            cwd=ROOT,
            env=os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
    said = f"port {port} of {socket.gethostname()}, where the ranks meet, is in use" in done.stdout + done.stderr
    assert done.returncode == code, done.stderr
    assert said == (code == 2) and (tmp_path / "run/done.json").is_file() == (code == 0)
