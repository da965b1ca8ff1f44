"""The squared error between two models' attention scores, computed without the score matrices.

Shapes: B rows, L tokens, H heads, D hidden width of each model, d = D / H. TinyBERT (arXiv:1909.10351, equation 7)
compares the scores before the softmax, A = Q K^T / sqrt(d). The sum of squares of a product of thin matrices needs only
their d x d Gram matrices: |Q K^T|^2 = <Q^T Q, K^T K>, and <Q K^T, Q' K'^T> = <Q^T Q', K^T K'>. That takes L d^2
operations instead of L^2 d, and stores nothing of size L x L for the backward pass.
"""

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]


def attention_score_loss(teacher: Pair, student: Pair, mask: Tensor, num_heads: int) -> Tensor:
    """Return the mean squared error of scores, over the real queries and keys of a row and over heads, then over rows.

    Args:
        teacher: queries and keys of the teacher, each [B, L, D_teacher]; they get no gradient.
        student: queries and keys of the student, each [B, L, D_student].
        mask: bool [B, L], true at real tokens.
        num_heads: H, the same for both models; must divide both widths.

    Returns:
        A float32 scalar, computed in float32 from inputs of any floating type. It is a difference of sums of squared
        scores, so for equal inputs it is 0 only up to the rounding of those sums.

    Raises:
        ValueError: if `num_heads` does not divide a width.
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
    """Split [B, L, D] into [B, H, L, d], float32, zero at padding, divided by d^(1/4) so that products are scores."""
    width = tensor.shape[-1] // num_heads
    tensor = tensor.float() * (mask.unsqueeze(-1) * width**-0.25)
    return tensor.unflatten(-1, (num_heads, width)).transpose(1, 2)
