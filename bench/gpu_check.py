"""The first ten minutes on a GPU: whether everything is right there, and how fast it is.

    python bench/gpu_check.py [--sections kernels waits job speed capture twice] [--output bench/results/gpu.json]

kernels  portable and Triton relation kernels against float64 and the straightforward way, values and times
waits    host synchronisations, kernel launches and attention kernels of a step, by mask
job      launch/gd.py stopped and continued against undisturbed, published and compared on the CPU
speed    steps of 24 x 1024 and 12 x 768 with each kernel: tokens/s, share of the matrix rate, peak memory
capture  the teacher's pass launched as one CUDA graph against kernel by kernel: features and times
twice    twenty steps twice: the same bits, or how far apart

Each section is a process of its own with a time limit, so that one that fails costs no other. The result is written
after each. `--tiny` rehearses all of it on a CPU. Exit code 1 where a section failed or found something wrong.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

SECTIONS = {
    "kernels": 120,
    "waits": 60,
    "job": 180,
    "speed": 140,
    "capture": 40,
    "twice": 60,
}  # seconds that each may take


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--output", type=Path, help="JSON; bench/results/gpu_<device>_<date>.json unless given")
    parser.add_argument("--tiny", action="store_true", help="a rehearsal on a CPU")
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)  # this one, in this process
    return parser.parse_args(arguments)


def run_section(name: str, tiny: bool, output: Path) -> None:
    """One section in this process; its facts go to the file."""
    if name == "job":
        from bench.gpu_job import job

        with tempfile.TemporaryDirectory() as folder:
            facts = job(tiny, Path(folder))
    else:
        from bench.gpu_sections import SECTIONS as FUNCTIONS

        facts = FUNCTIONS[name](tiny)
    output.write_text(json.dumps(facts))


def start_section(name: str, tiny: bool) -> dict[str, Any]:
    """One section in a process of its own: its facts, or what went wrong."""
    print(f"\n== {name}", flush=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "facts.json"
        command = [sys.executable, __file__, "--section", name, "--output", str(output)]
        environment = os.environ | ({"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""} if tiny else {})
        try:
            code = subprocess.run(
                command + (["--tiny"] if tiny else []), timeout=SECTIONS[name], env=environment, cwd=ROOT
            ).returncode
            problem = f"ended with exit code {code}" if code else None
        except subprocess.TimeoutExpired:
            problem = f"took longer than {SECTIONS[name]} s"
        facts = json.loads(output.read_text()) if output.is_file() else {"ok": False}
    if problem:
        print(f"FAILED: {problem}", flush=True)
        facts |= {"ok": False, "problem": problem}
    return facts | {"section seconds": round(time.monotonic() - started, 1)}


def main(arguments: Sequence[str] | None = None) -> int:
    """All sections that are asked for; the exit code."""
    options = parse_arguments(arguments)
    if options.section:
        run_section(options.section, options.tiny, options.output)
        return 0
    import torch

    if not options.tiny and not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU here; --tiny rehearses on the CPU")
    device = "CPU, tiny" if options.tiny else torch.cuda.get_device_name()
    date = time.strftime("%Y-%m-%d")
    path = options.output or ROOT / f"bench/results/gpu_{device.replace(' ', '_').replace(',', '')}_{date}.json"
    result: dict[str, Any] = {"device": device, "torch": torch.__version__, "date": date, "sections": {}}
    if not options.tiny:
        result["capability"] = torch.cuda.get_device_capability()
    print(f"{device}, torch {torch.__version__}")
    for name in options.sections:
        result["sections"][name] = start_section(name, options.tiny)
        path.write_text(json.dumps(result, indent=1) + "\n")
    print()
    for name, facts in result["sections"].items():
        verdict = {True: "right", None: "measured"}.get(facts["ok"], f"WRONG {facts.get('problem', '')}")
        print(f"{name:8} {facts['section seconds']:6.1f} s  {verdict}")
    print(f"recorded in {path}")
    return int(any(facts["ok"] is False for facts in result["sections"].values()))


if __name__ == "__main__":
    sys.exit(main())
