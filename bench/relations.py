"""The relation loss with its gradient formed in the forward pass against the straightforward one, side by side.

    python bench/relations.py [--plot FILE.png]

Straightforward: softmax of both models' relations kept for autograd, as public MiniLMv2 code does, in float32. Prints
medians of loss and gradient together, the ratio, the bytes that each keeps from forward to backward, and the most that
is allocated at once. `--plot` draws the latter against L, at 4,096 tokens.
"""

import argparse
import sys
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

# In the place of bench/, where corpus.py would hide the package of its name
sys.path[0] = str(Path(__file__).resolve().parents[1])

import matplotlib.pyplot as plt
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from bench.attention import median_milliseconds
from pretrain.relations import relation_loss

WIDTHS = (768, 384)  # of teacher and student
# B, L, R and widths; the last two are configs/4l312d.json's, the widest heads that a configuration here has
CASES = [(32, 128, 24, WIDTHS), (8, 512, 24, WIDTHS), (32, 128, 48, WIDTHS), (8, 512, 48, WIDTHS)]
CASES += [(32, 128, 8, (1024, 312)), (8, 512, 8, (1024, 312))]


def straightforward(teacher: Tensor, student: Tensor, mask: Tensor, num_heads: int) -> Tensor:
    """KL of the relations by autograd, the mean over real queries and heads, then rows."""
    logs = []
    for tensor in (teacher, student):
        heads = tensor.float().unflatten(-1, (num_heads, -1)).transpose(1, 2)
        logits = heads @ heads.mT * heads.shape[-1] ** -0.5
        logs.append(logits.masked_fill(~mask[:, None, None, :], -1e9).log_softmax(-1))
    divergence = (logs[0].exp() * (logs[0] - logs[1])).sum(-1).mean(1)
    return ((divergence * mask).sum(-1) / mask.sum(-1)).mean()


def kept_bytes(loss_of: object, *arguments: object) -> int:
    """Bytes that autograd saves for the backward pass."""
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss_of(*arguments)  # type: ignore[operator]
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


def fused(teacher: Tensor, student: Tensor, mask: Tensor, num_heads: int) -> Tensor:
    """Ours, one pair of relations of one tensor; the Triton kernel on a GPU."""
    device = mask.device.type
    kernel = "triton" if device == "cuda" else "portable"
    with torch.autocast(device, enabled=device == "cuda"):  # as in a run: products in TF32
        return relation_loss((teacher, teacher), (student, student), mask, num_heads, kernel)


def draw(batch: int, length: int, device: str, widths: tuple[int, int] = WIDTHS) -> tuple[Tensor, Tensor, Tensor]:
    """Teacher's and student's tensors, and a mask that masks nothing."""
    teacher = torch.randn(batch, length, widths[0], device=device, dtype=torch.bfloat16)
    student = torch.randn(batch, length, widths[1], device=device, dtype=torch.bfloat16, requires_grad=True)
    return teacher, student, torch.ones(batch, length, dtype=torch.bool, device=device)


def plot(path: str, device: str) -> None:
    """Peak memory against L at 4,096 tokens, R = 48."""
    lengths = (64, 128, 256, 512, 1024)
    plt.figure(figsize=(6, 4))
    for name, way in (("ours", fused), ("straightforward", straightforward)):
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
    """A line a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot", metavar="FILE.png")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    columns = ("ms", "straight", "ratio", "kept MB", "straight", "peak MB", "straight")
    print("  B    L   R       widths" + "".join(f"{column:>10}" for column in columns))
    for batch, length, heads, widths in CASES:
        inputs = (*draw(batch, length, device, widths), heads)
        ways = {"ours": fused, "straight": straightforward}
        calls = {name: lambda way=way, i=inputs: way(*i).backward() for name, way in ways.items()}
        times = median_milliseconds(calls)
        kept = [kept_bytes(way, *inputs) / 1e6 for way in ways.values()]
        peaks = [peak_bytes(call) / 1e6 for call in calls.values()]
        cells = [times["ours"], times["straight"], times["straight"] / times["ours"], *kept, *peaks]
        print(
            f"{batch:3}{length:5}{heads:4}{widths[0]:7} ->{widths[1]:4}" + "".join(f"{cell:10.2f}" for cell in cells),
            flush=True,
        )
    if arguments.plot:
        plot(arguments.plot, device)


if __name__ == "__main__":
    main()
