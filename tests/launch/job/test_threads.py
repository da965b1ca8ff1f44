"""Waiting threads release their cores, unless the user has configured how they wait."""

import subprocess
import sys
from pathlib import Path

import pytest

from launch.job.threads import share_cores

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"GOMP_SPINCOUNT": "10000"}),
        ({"GOMP_SPINCOUNT": "5"}, {"GOMP_SPINCOUNT": "5"}),
        ({"OMP_WAIT_POLICY": "active"}, {"OMP_WAIT_POLICY": "active"}),
    ],
)
def test_a_setting_of_the_user_stays(before, after):
    share_cores(before)
    assert before == after


def test_a_job_says_so_before_torch_is_loaded():
    """libgomp reads its environment once."""
    code = "import sys; import launch.job.rank, launch.job.threads; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, cwd=ROOT)
