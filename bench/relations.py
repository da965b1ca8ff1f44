"""The relation loss with its gradient formed in the forward pass against the straightforward one, side by side.

    python bench/relations.py

Straightforward: softmax of both models' relations kept for autograd, as public MiniLMv2 code does, in float32. Prints
medians of loss and gradient together, the ratio, and the bytes that each keeps from forward to backward.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from bench.attention import median_milliseconds
from pretrain.relations import relation_loss

CASES = [(32, 128, 24), (8, 512, 24), (32, 128, 48), (8, 512, 48)]  # B, L, R
TEACHER_WIDTH, STUDENT_WIDTH = 768, 384


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


def fused(teacher: Tensor, student: Tensor, mask: Tensor, num_heads: int) -> Tensor:
    """Ours, one pair of relations of one tensor."""
    return relation_loss((teacher, teacher), (student, student), mask, num_heads)


def main() -> None:
    """A line a case."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}, {TEACHER_WIDTH} -> {STUDENT_WIDTH}")
    print("  B    L   R     ours ms   straightforward ms   ratio    ours kept MB   straightforward kept MB")
    for batch, length, heads in CASES:
        mask = torch.ones(batch, length, dtype=torch.bool, device=device)
        teacher = torch.randn(batch, length, TEACHER_WIDTH, device=device, dtype=torch.bfloat16)
        student = torch.randn(batch, length, STUDENT_WIDTH, device=device, dtype=torch.bfloat16, requires_grad=True)
        inputs = (teacher, student, mask, heads)
        times = median_milliseconds(
            {
                "ours": lambda i=inputs: fused(*i).backward(),
                "straightforward": lambda i=inputs: straightforward(*i).backward(),
            }
        )
        kept = [kept_bytes(one, *inputs) / 1e6 for one in (fused, straightforward)]
        ratio = times["straightforward"] / times["ours"]
        print(
            f"{batch:3} {length:4}  {heads:2} {times['ours']:11.1f} {times['straightforward']:20.1f} {ratio:7.2f}"
            f" {kept[0]:15.1f} {kept[1]:25.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
