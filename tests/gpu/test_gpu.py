"""The tests of the device, once more, on the GPU of this machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parent


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")
@pytest.mark.skipif(os.environ.get("DS_ACCELERATOR") == "cuda", reason="runs on the GPU already")
def test_what_depends_on_the_device_is_right_on_the_gpu():
    of_a_rank = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "PYTEST_ADDOPTS")
    environment = {name: value for name, value in os.environ.items() if name not in of_a_rank}
    tests = [str(FOLDER), str(FOLDER.parent / "pretrain/objectives/test_relation_kernels.py")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(
        command, env=environment | {"DS_ACCELERATOR": "cuda"}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
