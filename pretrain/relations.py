"""Self-attention relations of MiniLM (arXiv:2002.10957) and MiniLMv2 (arXiv:2012.15828).

Shapes: B rows, L tokens, R relation heads, D hidden width (the model's own), d = D / R.
"""

from typing import Any

import torch
from torch import Tensor

# Relation matrices alive at once. A few heads at a time stay in a core's cache; a GPU wants launches that fill it.
CHUNK_BYTES = {"cpu": 1 << 20, "cuda": 256 << 20}
MASKED = -1e9  # float32 always: exp() of it is exactly 0 and differences of it stay finite


def relation_loss(
    teacher: tuple[Tensor, Tensor],
    student: tuple[Tensor, Tensor],
    mask: Tensor,
    num_relation_heads: int,
    chunk_bytes: int | None = None,
) -> Tensor:
    """KL(teacher || student) of one pair of relations, MiniLMv2 equations 5 to 7.

    relation(a, b) = softmax(a b^T / sqrt(d)) over real keys with a, b split into R relation heads of width d = D / R,
    d being each model's own. The loss is the mean over the real queries of a row and over heads, then over rows (the
    paper divides by heads and length too). Padded keys enter no softmax and padded queries no mean.

    Args:
        teacher: a and b of the teacher, each [B, L, D_teacher]; no gradient flows there.
        student: a and b of the student, each [B, L, D_student]; pass one tensor twice for QQ, KK or VV.
        mask: bool [B, L], true at real tokens.
        num_relation_heads: R; must divide both widths.
        chunk_bytes: bytes of one relation matrix kept at a time; by device unless given.

    Returns:
        The loss, a float32 scalar, computed in float32 from inputs of any floating type.
    """
    for name, width in (("teacher", teacher[0].shape[-1]), ("student", student[0].shape[-1])):
        if width % num_relation_heads:
            raise ValueError(f"{num_relation_heads} relation heads do not divide the {name}'s width {width}")
    if chunk_bytes is None:
        chunk_bytes = CHUNK_BYTES.get(mask.device.type, CHUNK_BYTES["cuda"])
    return _RelationLoss.apply(*teacher, *student, mask, num_relation_heads, chunk_bytes)


class _RelationLoss(torch.autograd.Function):
    """Loss and gradient in one pass over the heads, so that nothing of size L x L outlives a chunk.

    The loss is the last thing computed, so its gradient with respect to the student's logits is known at once:
    (student relation - teacher relation) times the query's weight.
    """

    @staticmethod
    def forward(
        ctx: Any,
        ta: Tensor,
        tb: Tensor,
        sa: Tensor,
        sb: Tensor,
        mask: Tensor,
        num_heads: int,
        chunk_bytes: int,
    ) -> Tensor:
        with torch.autocast(mask.device.type, enabled=False):
            loss, grad_a, grad_b = _relation_loss_and_gradient(ta, tb, sa, sb, mask, num_heads, chunk_bytes)
        ctx.save_for_backward(grad_a, grad_b)
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_output: Tensor) -> tuple[Tensor | None, ...]:
        grad_a, grad_b = ctx.saved_tensors
        return None, None, grad_a * grad_output[0], grad_b * grad_output[0], None, None, None


def _relation_loss_and_gradient(
    ta: Tensor, tb: Tensor, sa: Tensor, sb: Tensor, mask: Tensor, num_heads: int, chunk_bytes: int
) -> tuple[Tensor, Tensor, Tensor]:
    batch, length = mask.shape
    heads = [_split_heads(tensor, num_heads) for tensor in (ta, tb, sa, sb)]
    grad_a, grad_b = torch.empty_like(heads[2]), torch.empty_like(heads[3])
    scale = (sa.shape[-1] // num_heads) ** -0.5
    # Weight of a query: 1 / (real queries of its row x heads x rows); 0 for padding.
    weight = mask / (mask.sum(-1, keepdim=True).clamp(min=1) * (num_heads * batch))
    weight = weight.float().repeat_interleave(num_heads, 0).unsqueeze(-1)  # [B*R, L, 1]
    bias = torch.where(mask, 0.0, MASKED).repeat_interleave(num_heads, 0).unsqueeze(1)  # [B*R, 1, L]
    loss = torch.zeros((), device=mask.device)
    chunk = max(1, chunk_bytes // (4 * length * length))
    for start in range(0, batch * num_heads, chunk):
        part = slice(start, start + chunk)
        teacher_a, teacher_b, student_a, student_b = (tensor[part] for tensor in heads)
        log_p = _log_relation(teacher_a, teacher_b, bias[part])
        log_q = _log_relation(student_a, student_b, bias[part])
        p = log_p.exp()
        loss += (log_p.sub_(log_q).mul_(p).sum(-1, keepdim=True) * weight[part]).sum()
        grad_logits = log_q.exp_().sub_(p).mul_(weight[part] * scale)
        torch.bmm(grad_logits, student_b, out=grad_a[part])
        torch.bmm(grad_logits.mT, student_a, out=grad_b[part])
    return loss, _merge_heads(grad_a, batch).to(sa.dtype), _merge_heads(grad_b, batch).to(sb.dtype)


def _log_relation(a: Tensor, b: Tensor, bias: Tensor) -> Tensor:
    logits = torch.baddbmm(bias, a, b.mT, alpha=a.shape[-1] ** -0.5)
    return torch.log_softmax(logits, -1)


def _split_heads(tensor: Tensor, num_heads: int) -> Tensor:
    """[B, L, D] -> [B*R, L, d], float32."""
    return tensor.detach().float().unflatten(-1, (num_heads, -1)).transpose(1, 2).flatten(0, 1)


def _merge_heads(tensor: Tensor, batch: int) -> Tensor:
    """[B*R, L, d] -> [B, L, D]."""
    return tensor.unflatten(0, (batch, -1)).transpose(1, 2).flatten(2)
