"""Warnings are one line with a rank; what a library has to say is said by one rank."""

import subprocess
import sys

import pytest

from tests.launch.jobs import ROOT

SPEAKS = """
import logging, sys, warnings
from launch.job.messages import tag_messages
tag_messages(int(sys.argv[1]))
seen: dict = {}
for _ in range(2):
    warnings.warn_explicit("block 7 is lost", UserWarning, sys.argv[2] + "/corpus/rows/stream.py", 3, registry=seen)
    warnings.warn_explicit("old tensors", FutureWarning, "/lib/site-packages/torch/x.py", 1, registry=seen)
logging.info("details")
"""


@pytest.mark.parametrize(("rank", "more"), [(0, ["[rank 0] FutureWarning: old tensors"]), (3, [])])
def test_each_warning_is_one_line_with_its_rank_said_once(rank, more):
    command = [sys.executable, "-c", SPEAKS, str(rank), str(ROOT)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stderr.splitlines() == [f"[rank {rank}] block 7 is lost", *more]
