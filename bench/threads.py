"""What neighbours on the same cores cost a step, by how long waiting OpenMP threads spin (launch/job/threads.py).

    python bench/threads.py [--rounds 5] [--steps 5]

A step is the forward and backward pass of two layers of 384, 8 x 128 tokens, on every core; neighbours are processes
that only count. The settings take turns, each in a process of its own; medians, milliseconds a step.
"""

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from pretrain.device import cpu_name

SETTINGS = {
    "libgomp's own": {},
    "GOMP_SPINCOUNT=10000 (ours)": {"GOMP_SPINCOUNT": "10000"},
    "GOMP_SPINCOUNT=0": {"GOMP_SPINCOUNT": "0"},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
}
CHILD = """
import sys, time, torch
layer = torch.nn.TransformerEncoderLayer(384, 12, 1536, batch_first=True, dropout=0.0)
model, rows = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), torch.randn(8, 128, 384)
step = lambda: model(rows).square().mean().backward()
step()
started = time.perf_counter()
for _ in range(int(sys.argv[1])):
    step()
print(1e3 * (time.perf_counter() - started) / int(sys.argv[1]))
"""


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """So many processes that keep a core busy each."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def time_step(setting: dict[str, str], steps: int) -> float:
    """Milliseconds a step in a new process, which reads the setting as it loads torch."""
    plain = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(steps)], env=plain | setting, capture_output=True, text=True, check=True,
        timeout=600,
    )  # fmt: skip
    return float(done.stdout)


def main() -> None:
    """A line a number of neighbours."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5)
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    print(f"{cpu_name()}, {cores} cores; milliseconds a step, and how many times libgomp's own setting takes")
    print(f"{'neighbours':12}" + "".join(f"{name:>30}" for name in SETTINGS))
    for count in range(cores + 1):
        seconds: dict[str, list[float]] = {name: [] for name in SETTINGS}
        with neighbours(count):
            for _ in range(arguments.rounds):
                for name, setting in SETTINGS.items():
                    seconds[name].append(time_step(setting, arguments.steps))
        medians = {name: statistics.median(times) for name, times in seconds.items()}
        base = medians["libgomp's own"]
        print(
            f"{count:<12}" + "".join(f"{f'{one:.0f} ({base / one:.2f})':>30}" for one in medians.values()), flush=True
        )


if __name__ == "__main__":
    main()
