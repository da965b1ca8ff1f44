"""The relation loss and its gradient: portable kernel, Triton kernel and the straightforward way, side by side.

    python bench/relations.py [--plot FILE.png] [--repeats 7]

Straightforward: softmax of both models' relations kept for autograd, as public MiniLMv2 code does, in float32, which a
GPU multiplies as TF32 for all ways. Prints, for each case, the relative errors of loss and gradient against float64 (on
two rows), medians of loss and gradient together, the bytes kept from forward to backward, and the most that is
allocated at once. `--plot` draws the latter against L, at 4,096 tokens. The Triton kernel runs where the GPU is one of
Triton's; elsewhere it is left out, and said to be.
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

# In the place of bench/, where corpus.py would hide the package of its name
sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from bench.attention import median_milliseconds
from pretrain.objectives.kernel_choice import exact_loss_and_gradients, relative_error, triton_problem
from pretrain.objectives.relation_loss import relation_loss

Loss = Callable[[Tensor, Tensor, Tensor, int], Tensor]


class Case(NamedTuple):
    """B rows of L tokens, R relation heads, widths of teacher and student."""

    batch: int
    length: int
    heads: int
    teacher: int
    student: int

    def __str__(self) -> str:
        return f"{self.batch:3} x{self.length:4}, R ={self.heads:3}, {self.teacher} ->{self.student:4}"


def cases(device: str) -> list[Case]:
    """Relations of configs/: 4l312d (R = 8), 4l384d and 6l384d, 6l768d (64), and of a base teacher (24 and 48)."""
    kinds = [(24, 768, 384), (48, 768, 384), (8, 1024, 312)]
    tokens = 4096
    if device == "cuda":
        kinds += [(64, 1024, 384), (64, 1024, 768)]
        tokens = 16_384
    return [Case(tokens // length, length, *kind) for kind in kinds for length in (128, 512)]


def straightforward(teacher: Tensor, student: Tensor, mask: Tensor, num_heads: int) -> Tensor:
    """KL of the relations by autograd, the mean over real queries and heads, then rows."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")  # TF32 on a GPU, as ours
    logs = []
    for tensor in (teacher, student):
        heads = tensor.float().unflatten(-1, (num_heads, -1)).transpose(1, 2)
        logits = heads @ heads.mT * heads.shape[-1] ** -0.5
        logs.append(logits.masked_fill(~mask[:, None, None, :], -1e9).log_softmax(-1))
    torch.set_float32_matmul_precision(before)
    divergence = (logs[0].exp() * (logs[0] - logs[1])).sum(-1).mean(1)
    return ((divergence * mask).sum(-1) / mask.sum(-1)).mean()


def ours(kernel: str) -> Loss:
    """One pair of relations of one tensor, as in a run: under autocast, which on a GPU means products in TF32."""

    def loss(teacher: Tensor, student: Tensor, mask: Tensor, num_heads: int) -> Tensor:
        with torch.autocast(mask.device.type, enabled=mask.is_cuda):
            return relation_loss((teacher, teacher), (student, student), mask, num_heads, kernel)  # type: ignore[arg-type]

    return loss


def ways(device: str) -> dict[str, Loss]:
    """What runs on this device, by name."""
    found = {"portable": ours("portable"), "triton": ours("triton"), "straight": straightforward}
    if device == "cpu" or triton_problem(device):
        del found["triton"]
    return found


def kept_bytes(loss_of: Loss, *arguments: object) -> int:
    """Bytes that autograd saves for the backward pass."""
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss_of(*arguments)  # type: ignore[arg-type]
    return sum(sizes.values())


def peak_bytes(call: Callable[[], object]) -> int:
    """The most that the call has allocated at once, beyond what was there before."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        call()
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))


def draw(batch: int, length: int, device: str, widths: tuple[int, int] = (768, 384)) -> tuple[Tensor, Tensor, Tensor]:
    """Teacher's and student's tensors, and a mask that masks nothing."""
    teacher = torch.randn(batch, length, widths[0], device=device, dtype=torch.bfloat16)
    student = torch.randn(batch, length, widths[1], device=device, dtype=torch.bfloat16, requires_grad=True)
    return teacher, student, torch.ones(batch, length, dtype=torch.bool, device=device)


def errors(way: Loss, case: Case, device: str) -> tuple[float, float]:
    """Relative errors of loss and gradient against float64, on two rows of which one is padded."""
    teacher, student, mask = draw(2, case.length, device, (case.teacher, case.student))
    mask[1, case.length // 3 :] = False
    loss = way(teacher, student, mask, case.heads)
    (gradient,) = torch.autograd.grad(loss, [student])
    exact = exact_loss_and_gradients((teacher, teacher), (student, student), mask, case.heads)
    return relative_error(loss, exact[0]), relative_error(gradient, exact[1])


def measure(case: Case, device: str, repeats: int = 7) -> dict[str, dict[str, float]]:
    """By way: errors against float64, milliseconds of loss and gradient, megabytes kept and at most."""
    inputs = (*draw(case.batch, case.length, device, (case.teacher, case.student)), case.heads)
    results: dict[str, dict[str, float]] = {}
    calls: dict[str, Callable[[], object]] = {}
    for name, way in ways(device).items():
        loss_error, gradient_error = errors(way, case, device)
        calls[name] = lambda way=way: torch.autograd.grad(way(*inputs), [inputs[1]])
        results[name] = {"loss error": loss_error, "gradient error": gradient_error}
        results[name] |= {"kept MB": kept_bytes(way, *inputs) / 1e6, "peak MB": peak_bytes(calls[name]) / 1e6}
    for name, milliseconds in median_milliseconds(calls, repeats).items():
        results[name]["ms"] = milliseconds
    return results


def describe(results: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A line a way; `ratio` is how many times as long it takes as the fastest."""
    fastest = min(values["ms"] for values in results.values())
    return [
        f"    {name:10}{one['ms']:9.2f} ms {one['ms'] / fastest:6.2f}x   "
        f"errors: loss {one['loss error']:.1e}, gradient {one['gradient error']:.1e}   "
        f"kept {one['kept MB']:,.1f} MB, at most {one['peak MB']:,.1f} MB"
        for name, one in results.items()
    ]


def plot(path: str, device: str) -> None:
    """Peak memory against L at 4,096 tokens, R = 48."""
    import matplotlib.pyplot as plt

    lengths = (64, 128, 256, 512, 1024)
    plt.figure(figsize=(6, 4))
    for name, way in ways(device).items():
        peaks = []
        for length in lengths:
            inputs = (*draw(4096 // length, length, device), 48)
            peaks.append(peak_bytes(lambda way=way, inputs=inputs: way(*inputs).backward()) / 1e6)
        plt.plot(lengths, peaks, marker="o", label=name)
        print(
            f"{name}: " + ", ".join(f"L = {length} {peak:.0f} MB" for length, peak in zip(lengths, peaks, strict=True))
        )
    plt.xlabel("L, tokens a row (4,096 tokens in all)")
    plt.ylabel("peak memory of loss and gradient, MB")
    plt.xscale("log", base=2)
    plt.yscale("log")
    plt.legend()
    plt.tight_layout()
    plt.savefig(path, dpi=120)


def main() -> None:
    """A line a way and case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot", metavar="FILE.png")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}, torch {torch.__version__}")
    if "triton" not in ways(device):
        print(f"without the Triton kernel: {triton_problem(device) or 'this is a CPU'}")
    for case in cases(device):
        print(case, *describe(measure(case, device, arguments.repeats)), sep="\n", flush=True)
    if arguments.plot:
        plot(arguments.plot, device)


if __name__ == "__main__":
    main()
