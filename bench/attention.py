"""The attention that students and teacher run with: plain matrix products against the fused kernel, side by side.

    python bench/attention.py

Prints medians in milliseconds and the ratio fused / plain, forward alone and with the backward pass, in bfloat16.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

CASES = [(32, 128, 26), (32, 128, 32), (32, 128, 64), (8, 512, 26), (8, 512, 64)]  # B, L, head width
NUM_HEADS, REPEATS = 12, 7


def plain(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """As transformers' eager attention."""
    return torch.softmax(query @ key.mT * query.shape[-1] ** -0.5, -1) @ value


def median_milliseconds(calls: dict[str, Callable[[], object]], repeats: int = REPEATS) -> dict[str, float]:
    """Median time of each call, interleaved, after one round of warm-up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_number in range(repeats + 1):
        for name, call in calls.items():
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            started = time.perf_counter()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if round_number:
                times[name].append(1e3 * (time.perf_counter() - started))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """A line a case."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}, bfloat16, {NUM_HEADS} heads")
    print("  B    L  width    forward: plain  fused  ratio    forward + backward: plain  fused  ratio")
    for batch, length, width in CASES:
        tensors = [torch.randn(batch, NUM_HEADS, length, width, device=device, dtype=torch.bfloat16) for _ in range(3)]
        trained = [tensor.clone().requires_grad_() for tensor in tensors]
        with torch.no_grad():
            forward = median_milliseconds(
                {"plain": lambda t=tensors: plain(*t), "fused": lambda t=tensors: scaled_dot_product_attention(*t)}
            )
        both = median_milliseconds(
            {
                "plain": lambda t=trained: plain(*t).sum().backward(),
                "fused": lambda t=trained: scaled_dot_product_attention(*t).sum().backward(),
            }
        )
        cells = [f"{m['plain']:.1f}  {m['fused']:.1f}  {m['fused'] / m['plain']:.2f}" for m in (forward, both)]
        print(f"{batch:3} {length:4}  {width:5}    {cells[0]:>24}    {cells[1]:>30}", flush=True)


if __name__ == "__main__":
    main()
