"""A general distillation step: ours, straight implementations and a published package, side by side in one run.

    python bench/gd_step.py [--row-tokens 128 512] [--rows 8] [--rounds 5] [--teacher 24x1024] [--kernel triton]
                            [--dtype float32] [--students 4l312d 6l768d] [--output FILE.json]

Teacher 12 x 768 unless told, students 4 x 312 and 6 x 384 (on a GPU 6 x 768 too); then 1, 2 and 4 students of one
teacher pass against each alone. --kernel and --dtype are of our way; float32 leaves out the straight bfloat16 one.
Every way is a process of its own (bench/gd_ways.py) that makes a step when told, in turn; medians. `--bertdistiller`
is the interpreter of an environment with `pip install bertdistiller` (it wants transformers 4). Operations counted are
those the mathematics needs: every matrix product of the layers that are read, forward, and twice more backward for the
student.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

import torch

from bench.clock import DEVICE, clock
from bench.gd_ways import SIZES, TEACHER, relation_heads, set_teacher
from pretrain.device import device_name
from pretrain.precision import choose_dtype

Answer = dict
FOUR = ["4l312d", "4l384d", "6l312d", "6l384d"]
Ways = Mapping[str, tuple[str, str, list[str]]]  # name -> interpreter, way, students


def teacher_sizes() -> str:
    return f"{TEACHER['num_hidden_layers']}x{TEACHER['hidden_size']}"


@contextmanager
def started(
    ways: Ways, rows: int, row_tokens: int, arguments: argparse.Namespace
) -> Iterator[dict[str, subprocess.Popen]]:
    """A process a way."""
    sizes = ["--rows", str(rows), "--row-tokens", str(row_tokens), "--teacher", teacher_sizes()]
    sizes += ["--kernel", arguments.kernel, "--dtype", arguments.dtype]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    processes = {
        name: subprocess.Popen(
            [python, ROOT / "bench/gd_ways.py", "--way", way, "--students", *students, *sizes], text=True, **pipes
        )
        for name, (python, way, students) in ways.items()
    }
    try:
        yield processes
    finally:
        for process in processes.values():
            process.kill()
            process.wait()


def step(name: str, process: subprocess.Popen) -> Answer:
    assert process.stdin and process.stdout
    try:
        print("step", file=process.stdin, flush=True)
        return json.loads(process.stdout.readline())
    except (BrokenPipeError, json.JSONDecodeError) as error:
        raise SystemExit(f"{name} ended; run bench/gd_ways.py to see why") from error


def measure(ways: Ways, rows: int, row_tokens: int, arguments: argparse.Namespace) -> dict[str, Answer]:
    """Medians over interleaved rounds after two of warming up."""
    answers: dict[str, list[Answer]] = {name: [] for name in ways}
    with started(ways, rows, row_tokens, arguments) as processes:
        for round_number in range(arguments.rounds + 2):
            for name, process in processes.items():
                answer = step(name, process)
                if round_number >= 2:
                    answers[name].append(answer)
    return {name: _median(many) for name, many in answers.items()}


def _median(answers: list[Answer]) -> Answer:
    phases = {phase: statistics.median(one["phases"][phase] for one in answers) for phase in answers[0]["phases"]}
    seconds = [one["seconds"] for one in answers]
    peak = max(one["peak_bytes"] for one in answers)
    return {"seconds": statistics.median(seconds), "range": (min(seconds), max(seconds)), "peak_bytes": peak,
            "phases": phases}  # fmt: skip


def needed_operations(students: list[str], rows: int, row_tokens: int) -> float:
    """Floating-point operations of a MiniLMv2 step; a multiplication and an addition are two.

    A layer: 4 D^2 for q, k, v, o and 2 D I for the feed-forward, times 2; attention 4 L D. The last layer read gives
    q, k, v alone. A relation of width D is 2 L D a pair; the student's has two more for its gradient.
    """

    def layers(num_layers: int, width: int, inner: int) -> float:
        whole = 2 * (4 * width**2 + 2 * width * inner) + 4 * row_tokens * width
        return (num_layers - 1) * whole + 2 * 3 * width**2

    width = TEACHER["hidden_size"]
    total = layers(TEACHER["num_hidden_layers"], width, TEACHER["intermediate_size"])
    for name in students:
        num_layers, width_of_student, inner = SIZES[name]
        total += 3 * layers(num_layers, width_of_student, inner)
        total += 3 * 2 * row_tokens * (width + 3 * width_of_student)
    return total * rows * row_tokens


def matrix_rate(dtype: str) -> float:
    """Operations a second of a square matrix product in this type, the best of several."""
    size = 8192 if DEVICE.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=DEVICE, dtype=getattr(torch, dtype)) for _ in range(2))
    times = []
    for _ in range(12):
        start = clock()
        a @ b
        times.append(clock() - start)
    return 2 * size**3 / min(times)


def compare_ways(student: str, rows: int, row_tokens: int, arguments: argparse.Namespace) -> dict:
    """Prints a table of the ways; gives its figures."""
    names = ["ours", "straight float32"] + ([] if arguments.dtype == "float32" else ["straight bfloat16"])
    if TEACHER["num_attention_heads"] == 12:  # TinyBERT compares scores head by head: both need as many
        names += ["ours, tinybert", "straight tinybert"]
    if DEVICE.type == "cpu":
        names.append("ours, memory given back")
    ways = {name: (sys.executable, name, [student]) for name in names}
    if arguments.bertdistiller:
        ways["bertdistiller"] = (arguments.bertdistiller, "bertdistiller", [student])
    dtype = choose_dtype(arguments.dtype, DEVICE)
    rate = matrix_rate(dtype)
    medians = measure(ways, rows, row_tokens, arguments)
    print(f"\nteacher {teacher_sizes()}, student {student}, {rows} x {row_tokens}, R = {relation_heads(student)}")
    print(f"{'way':24}{'tokens/s':>10}{'s a step (range)':>26}{'peak GB':>10}{'ours is faster':>16}")
    for name, answer in medians.items():
        against = medians["ours, tinybert" if "tinybert" in name else "ours"]["seconds"]
        seconds = "{:.3f} ({:.3f} to {:.3f})".format(answer["seconds"], *answer["range"])
        tokens, peak = rows * row_tokens / answer["seconds"], answer["peak_bytes"] / 1e9
        print(f"{name:24}{tokens:10,.0f}{seconds:>26}{peak:10.2f}{answer['seconds'] / against:15.2f}x", flush=True)
    ours = medians["ours"]
    print("ours, share of the step: " + ", ".join(f"{k} {v / ours['seconds']:.0%}" for k, v in ours["phases"].items()))
    needed = needed_operations([student], rows, row_tokens)
    reached = needed / ours["seconds"]
    print(f"ours: {reached / 1e9:,.0f} GFLOP/s needed; a {dtype} product does {rate / 1e9:,.0f}: {reached / rate:.0%}")
    sizes = {"student": student, "rows": rows, "row_tokens": row_tokens}
    return sizes | {"ways": medians, "needed_operations": needed, "matrix_rate": rate}


def compare_families(rows: int, row_tokens: int, arguments: argparse.Namespace) -> dict:
    """Prints what several students of one teacher pass save; gives its figures."""
    families = {"1 student": ["4l312d"], "2 students": ["4l312d", "6l384d"], "4 students": FOUR}
    ways = {name: (sys.executable, "ours", students) for name, students in families.items()}
    ways |= {f"{name} alone": (sys.executable, "ours", [name]) for name in FOUR}
    medians = measure(ways, rows, row_tokens, arguments)
    print(f"\none pass of the {teacher_sizes()} teacher for several students, {rows} x {row_tokens}")
    for name, students in families.items():
        alone = sum(medians[f"{student} alone"]["seconds"] for student in students)
        together = medians[name]["seconds"]
        print(f"{name}: {together:.3f} s, each alone {alone:.3f} s in sum: {together / alone:.2f} of that", flush=True)
    return {"rows": rows, "row_tokens": row_tokens, "ways": medians}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row-tokens", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--rows", type=int, help="of 128 tokens; a quarter as many of 512")
    parser.add_argument("--rounds", type=int, default=5)
    students = ["4l312d", "6l384d"] + (["6l768d"] if DEVICE.type == "cuda" else [])
    parser.add_argument("--students", nargs="+", default=students, choices=SIZES)
    parser.add_argument("--kernel", choices=("auto", "portable", "triton"), default="auto")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--teacher", default=teacher_sizes(), metavar="LAYERSxWIDTH")
    parser.add_argument("--bertdistiller", metavar="PYTHON")
    parser.add_argument("--output", type=Path, help="JSON with every figure")
    arguments = parser.parse_args()
    set_teacher(arguments.teacher)
    # On a GPU all ways stand in its memory side by side; the straight float32 one at L = 512 takes some 15 GB.
    rows = arguments.rows or (16 if DEVICE.type == "cpu" else 64)
    name = device_name(DEVICE)
    print(f"{name}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}")
    results: dict = {"machine": name, "torch": torch.__version__, "date": time.strftime("%Y-%m-%d")}
    results |= {"kernel": arguments.kernel, "dtype": arguments.dtype}
    results |= {"teacher": arguments.teacher, "steps": [], "families": []}
    for row_tokens in arguments.row_tokens:
        rows_here = max(rows * 128 // row_tokens, 1)
        for student in arguments.students:
            results["steps"].append(compare_ways(student, rows_here, row_tokens, arguments))
        results["families"].append(compare_families(rows_here, row_tokens, arguments))
        if arguments.output:
            arguments.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
