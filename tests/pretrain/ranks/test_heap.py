"""Freed memory is reused for the next tensor without the system."""

import platform
import subprocess
import sys

import pytest

COUNT_FAULTS = """
import resource, sys, torch
from pretrain.ranks.process_group import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
make = lambda: sum(float(torch.ones(size << 20).sum()) for size in (9, 16, 25))  # 36 to 100 MB each
assert make() == make() == 50 << 20
count = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
faults = []
for _ in range(8):
    before = count()
    make()
    faults.append(count() - before)
print(min(faults))  # a heap may still grow once or twice before it has settled
"""


@pytest.mark.job
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_tensors_lie_where_freed_ones_lay():
    faults = {
        way: int(subprocess.check_output([sys.executable, "-c", COUNT_FAULTS, way], timeout=240))
        for way in ("kept", "given back")
    }
    assert faults["kept"] < 1000 < 25_000 < faults["given back"], faults
