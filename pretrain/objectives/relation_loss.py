"""The loss between self-attention relations of MiniLM (arXiv:2002.10957) and MiniLMv2 (arXiv:2012.15828).

Shapes: B rows, L tokens, R relation heads, D hidden width of each model, d = D / R.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pretrain.objectives.kernel_choice import Kernel, use_triton
from pretrain.precision import float32_inside, kept_dtype

Pair = tuple[Tensor, Tensor]
# Bytes of a relation matrix kept at once: a few heads fit a CPU core's cache; a GPU needs launches that fill it.
CHUNK_BYTES = {"cpu": 2 << 20, "cuda": 256 << 20}
MASKED = -1e9  # always in float32, where its exp() is exactly 0 and its differences stay finite


def relation_loss(
    teacher: Pair,
    student: Pair,
    mask: Tensor | None,
    num_relation_heads: int,
    kernel: Kernel = "portable",
    chunk_bytes: int | None = None,
    documents: Tensor | None = None,
) -> Tensor:
    """Return KL(teacher || student) of one kind of relation, MiniLMv2 equations 5 to 7.

    relation(a, b) = softmax(a b^T / sqrt(d)) over real keys, with a and b split into R relation heads of each model's
    own width d = D / R. The loss is the mean over the real queries of a row and over heads, then over rows (the paper
    also divides by heads and length). Padded keys are in no softmax and padded queries in no mean. With `documents`, a
    softmax is over the keys of the query's own document.

    Args:
        teacher: a and b of the teacher, each [B, L, D_teacher]; they get no gradient.
        student: a and b of the student, each [B, L, D_student]; pass the same tensor twice for QQ, KK or VV.
        mask: bool [B, L], true at real tokens; None if all are real.
        num_relation_heads: R; must divide both widths.
        kernel: "portable" for every device; "triton" for a GPU, which stores no relations at all
            (relation_kernels.py); "auto" for Triton if it works, otherwise the portable one.
        chunk_bytes: bytes of one relation matrix that the portable kernel keeps at a time; depends on the device by
            default.
        documents: integers [B, L], the document of each token, -1 for padding; None to compare all real tokens.

    Returns:
        A float32 scalar, computed in float32 from inputs of any floating type.

    Raises:
        ValueError: if R does not divide a width, or `kernel` is "triton" and Triton does not work here.
    """
    for name, width in (("teacher", teacher[0].shape[-1]), ("student", student[0].shape[-1])):
        if width % num_relation_heads:
            raise ValueError(f"{num_relation_heads} relation heads do not divide the {name}'s width {width}")
    if chunk_bytes is None:
        chunk_bytes = CHUNK_BYTES.get(student[0].device.type, CHUNK_BYTES["cuda"])
    return _RelationLoss.apply(*teacher, *student, mask, documents, num_relation_heads, kernel, chunk_bytes)


class _RelationLoss(torch.autograd.Function):
    """Loss and gradient in one pass over the heads, so that nothing of size L x L is kept longer than a chunk.

    The gradient with respect to the student's logits needs no backward pass: it is (student relation - teacher
    relation) times the query's weight.
    """

    @staticmethod
    def forward(
        ctx: Any, ta: Tensor, tb: Tensor, sa: Tensor, sb: Tensor, real: Tensor | None, documents: Tensor | None,
        heads: int, kernel: Kernel, chunk: int,
    ) -> Tensor:  # fmt: skip
        mask = torch.ones(sa.shape[:2], dtype=torch.bool, device=sa.device) if real is None else real
        weight = _query_weights(mask, heads)
        with float32_inside(mask.device.type):
            if use_triton(kernel, (ta, tb), (sa, sb), heads):
                from pretrain.objectives.relation_kernels import relation_loss_and_gradient

                numbers = mask.int() - 1 if documents is None else documents.masked_fill(~mask, -1)
                loss, *grads = relation_loss_and_gradient((ta, tb), (sa, sb), numbers, weight, heads)
            else:
                teacher, student = _split_pair(ta, tb, heads), _split_pair(sa, sb, heads)
                wanted = any(ctx.needs_input_grad[2:4])  # false if the loss is only evaluated
                keys = _Keys(mask, documents, real is None, heads)
                loss, *grads = _relation_loss_and_gradient(teacher, student, keys, weight, chunk, wanted)
                grads = [None if grad is None else _merge_heads(grad, len(mask)) for grad in grads]
        ctx.save_for_backward(*(None if grad is None else grad.to(kept_dtype(sa.dtype)) for grad in grads))
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_output: Tensor) -> tuple[Tensor | None, ...]:
        grad_a, grad_b = (grad if grad is None else grad * grad_output[0] for grad in ctx.saved_tensors)
        return None, None, grad_a, grad_b, None, None, None, None, None


def _relation_loss_and_gradient(
    teacher: Pair, student: Pair, keys: "_Keys", weight: Tensor, chunk_bytes: int, wants_gradient: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return the loss and, if wanted, its gradients [B*R, L, d] with respect to a and b; only a's if b is a."""
    length, same = weight.shape[1], student[0] is student[1]
    grad_a = torch.empty_like(student[0]) if wants_gradient else None
    grad_b = torch.empty_like(student[1]) if wants_gradient and not same else None
    scale = student[0].shape[-1] ** -0.5
    weight = weight.repeat_interleave(keys.num_heads, 0).unsqueeze(-1)  # [B*R, L, 1]
    loss = torch.zeros((), device=weight.device)
    chunk = max(1, chunk_bytes // (4 * length * length))
    for start in range(0, len(weight), chunk):
        part = slice(start, start + chunk)
        a, b = student[0][part], student[1][part]
        bias = keys.bias(part.start, len(a))
        divergence, difference = _divergence(_logits(teacher[0][part], teacher[1][part], bias), _logits(a, b, bias))
        loss += (divergence * weight[part]).sum()
        if grad_a is None:
            continue
        grad_logits = difference.mul_(weight[part] * scale)
        if grad_b is None:
            torch.bmm(grad_logits + grad_logits.mT, a, out=grad_a[part])
        else:
            torch.bmm(grad_logits, b, out=grad_a[part])
            torch.bmm(grad_logits.mT, a, out=grad_b[part])
    return loss, grad_a, grad_b


@dataclass(frozen=True)
class _Keys:
    """Which keys a query is compared with: the real tokens [B, L] of its row or, if given, of its document."""

    mask: Tensor
    documents: Tensor | None
    is_full: bool  # no padding: nothing is masked, unless there are documents
    num_heads: int

    def bias(self, first: int, count: int) -> Tensor | None:
        """Return what is added to the logits of `count` of the B*R heads: [count, 1 or L, L], or None for nothing."""
        if self.documents is None and self.is_full:
            return None  # adding it would copy the logits
        rows = slice(first // self.num_heads, (first + count - 1) // self.num_heads + 1)
        allowed = self.mask[rows].unsqueeze(1)
        if self.documents is not None:
            numbers = self.documents[rows]
            allowed = allowed & (numbers.unsqueeze(-1) == numbers.unsqueeze(1))
        bias = torch.where(allowed, 0.0, MASKED)
        if len(bias) == 1:
            return bias.expand(count, -1, -1)
        heads = torch.arange(first, first + count, device=bias.device)
        return bias[heads // self.num_heads - rows.start]


def _query_weights(mask: Tensor, num_heads: int) -> Tensor:
    """Return 1 / (real queries of the row x heads x rows) for real queries, 0 for padding; float32 [B, L]."""
    weight = mask / (mask.sum(-1, keepdim=True).clamp(min=1) * (num_heads * len(mask)))
    return weight.float()


def _logits(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    if bias is None:
        return torch.bmm(a * a.shape[-1] ** -0.5, b.mT)
    return torch.baddbmm(bias, a, b.mT, alpha=a.shape[-1] ** -0.5)


def _divergence(teacher: Tensor, student: Tensor) -> tuple[Tensor, Tensor]:
    """Return KL of two softmaxes over the last dimension [.., 1], and student minus teacher relation, from logits.

    KL = sum p (z_teacher - z_student) - log Z_teacher + log Z_student needs each exponential once. The largest p is at
    least 1 / L, so log Z = max z - log max p is accurate. Overwrites the logits.
    """
    p, q = teacher.softmax(-1), student.softmax(-1)
    log_z_teacher, log_z_student = (
        z.amax(-1, keepdim=True) - relation.amax(-1, keepdim=True).log() for z, relation in ((teacher, p), (student, q))
    )
    divergence = teacher.sub_(student).mul_(p).sum(-1, keepdim=True) - log_z_teacher + log_z_student
    return divergence, q.sub_(p)


def _split_pair(a: Tensor, b: Tensor, num_heads: int) -> Pair:
    """Split the heads of both; return the same tensor twice if a is b."""
    split = _split_heads(a, num_heads)
    return split, split if a is b else _split_heads(b, num_heads)


def _split_heads(tensor: Tensor, num_heads: int) -> Tensor:
    """Convert [B, L, D] to [B*R, L, d], float32 and contiguous, in one copy."""
    split = tensor.detach().unflatten(-1, (num_heads, -1)).transpose(1, 2)
    return torch.empty(split.shape, device=tensor.device).copy_(split).flatten(0, 1)


def _merge_heads(tensor: Tensor, batch: int) -> Tensor:
    """Convert [B*R, L, d] to [B, L, D]."""
    return tensor.unflatten(0, (batch, -1)).transpose(1, 2).flatten(2)
