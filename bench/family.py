"""Four students from one teacher pass against four runs alone, by the real main job.

    python bench/family.py --teacher FOLDER_OR_ID --corpus MANIFEST [--steps 20] [--rows 32] [--row-tokens 128]

Launches configs/family.json and then each of its students alone, several rounds, and compares seconds a step (medians
over rounds, the first logged steps left out).
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from transformers import AutoConfig

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 2


def seconds_per_step(config: Path, run: Path, arguments: argparse.Namespace) -> float:
    """Run the main job; median seconds a step over its logged steps but the first."""
    overrides = [f"teacher.path={arguments.teacher}", f"corpus.manifest={arguments.corpus}"]
    overrides += [f"corpus.row_tokens={arguments.row_tokens}", f"training.total_steps={arguments.steps}"]
    overrides += ["training.log_every_steps=2", f"deepspeed.train_batch_size={arguments.rows}"]
    overrides += [f"deepspeed.train_micro_batch_size_per_gpu={arguments.rows}"]
    command = [sys.executable, "-m", "deepspeed.launcher.runner", "--num_gpus", "1", "-q", "launch/gd.py"]
    command += ["--config", str(config), "--run", str(run), "--set", *overrides]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    tokens = arguments.rows * arguments.row_tokens
    return statistics.median(tokens / line["tokens_per_second"] for line in lines[1:])


def main() -> None:
    """A line a run and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="demo/teacher")
    parser.add_argument("--corpus", default="demo/corpus")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--row-tokens", type=int, default=128)
    arguments = parser.parse_args()
    family = json.loads((ROOT / "configs/family.json").read_text())
    width = AutoConfig.from_pretrained(arguments.teacher).hidden_size
    for student in family["students"]:
        if student["hidden_size"] > width:
            student["init"]["layers"] = "scratch"  # a narrower teacher has none to give
    names = [student["name"] for student in family["students"]]
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for round_number in range(ROUNDS):
            for name in ["family", *names]:
                config = Path(folder) / f"{name}.json"
                students = [s for s in family["students"] if name in ("family", s["name"])]
                config.write_text(json.dumps(family | {"students": students}))
                run = Path(folder) / f"{name}-{round_number}"
                times.setdefault(name, []).append(seconds_per_step(config, run, arguments))
                print(f"{name:8} {times[name][-1]:.3f} s a step", flush=True)
    medians = {name: statistics.median(values) for name, values in times.items()}
    alone = sum(medians[name] for name in names)
    print(f"four alone {alone:.3f} s, together {medians['family']:.3f} s: {alone / medians['family']:.2f} times")


if __name__ == "__main__":
    main()
