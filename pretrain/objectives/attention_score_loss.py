"""The squared error between two models' attention scores, without ever forming them.

Shapes: B rows, L tokens, H heads, D hidden width (the model's own), d = D / H. TinyBERT (arXiv:1909.10351, equation 7)
compares the scores before the softmax, A = Q K^T / sqrt(d). The sum of squares of a product of thin matrices needs only
their d x d Gram matrices: |Q K^T|^2 = <Q^T Q, K^T K>, and <Q K^T, Q' K'^T> = <Q^T Q', K^T K'>. That is L d^2 work where
the scores are L^2 d, and nothing of size L x L for the backward pass.
"""

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]


def attention_score_loss(teacher: Pair, student: Pair, mask: Tensor, num_heads: int) -> Tensor:
    """Mean squared error over the real queries and real keys of a row and over heads, then over rows.

    Args:
        teacher, student: queries and keys, [B, L, D] of each model's own width; no gradient flows to the teacher.
        mask: bool [B, L], true at real tokens.
        num_heads: H, the same for both; must divide both widths.

    Returns:
        A float32 scalar, computed in float32 from inputs of any floating type. Sums are of the size of the scores'
        squares, so where student and teacher agree the loss is that times float32's rounding, not exactly 0.
    """
    for name, (query, _) in (("teacher", teacher), ("student", student)):
        if query.shape[-1] % num_heads:
            raise ValueError(f"{num_heads} heads do not divide the {name}'s width {query.shape[-1]}")
    with torch.autocast(mask.device.type, enabled=False):
        tq, tk = (_heads(tensor.detach(), mask, num_heads) for tensor in teacher)
        sq, sk = (_heads(tensor, mask, num_heads) for tensor in student)
        own = (sq.mT @ sq) * (sk.mT @ sk)
        cross = (sq.mT @ tq) * (sk.mT @ tk)
        target = (tq.mT @ tq) * (tk.mT @ tk)
        sums = own.sum((-2, -1)) - 2 * cross.sum((-2, -1)) + target.sum((-2, -1))  # [B, H]
        return (sums.mean(-1) / mask.sum(-1).clamp(min=1).square()).mean()


def _heads(tensor: Tensor, mask: Tensor, num_heads: int) -> Tensor:
    """[B, L, D] -> [B, H, L, d], float32, padding zeroed, divided by d^(1/4) so that a product is a score."""
    width = tensor.shape[-1] // num_heads
    tensor = tensor.float() * (mask.unsqueeze(-1) * width**-0.25)
    return tensor.unflatten(-1, (num_heads, width)).transpose(1, 2)
