"""The squared error between two models' attention scores, computed without the score matrices.

Shapes: B rows, L tokens, H heads, D hidden width of each model, d = D / H. TinyBERT (arXiv:1909.10351, equation 7)
compares the scores before the softmax, A = Q K^T / sqrt(d). The sum of squares of a product of thin matrices needs only
their d x d Gram matrices: |Q K^T|^2 = <Q^T Q, K^T K>, and <Q K^T, Q' K'^T> = <Q^T Q', K^T K'>. That takes L d^2
operations instead of L^2 d, and stores nothing of size L x L for the backward pass.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pretrain.objectives.objective import Reduction

Pair = tuple[Tensor, Tensor]


def attention_score_loss(
    teacher: Pair,
    student: Pair,
    parts: Sequence[Tensor],
    num_heads: int,
    reduction: Reduction = "rows",
    num_pairs: Tensor | None = None,
) -> Tensor:
    """Return the mean squared error of scores, over heads and pairs of query and key.

    Args:
        teacher: queries and keys of the teacher, each [B, L, D_teacher]; they get no gradient.
        student: queries and keys of the student, each [B, L, D_student].
        parts: bool masks [B, L] of tokens that are compared with one another: one of all real tokens, or one for each
            document of a row.
        num_heads: H, the same for both models; must divide both widths.
        reduction: the mean over the pairs of a row, then over rows, or over all pairs ("tokens").
        num_pairs: for "tokens", the pairs in a micro-batch of the step, on average; those of `parts` by default.

    Returns:
        A float32 scalar, computed in float32 from inputs of any floating type. It is a difference of sums of squared
        scores, so for equal inputs it is 0 only up to the rounding of those sums.

    Raises:
        ValueError: if `num_heads` does not divide a width.
    """
    for name, (query, _) in (("teacher", teacher), ("student", student)):
        if query.shape[-1] % num_heads:
            raise ValueError(f"{num_heads} heads do not divide the {name}'s width {query.shape[-1]}")
    teacher = teacher[0].detach(), teacher[1].detach()
    with torch.autocast(student[0].device.type, enabled=False):
        errors = torch.stack([_squared_errors(teacher, student, mask, num_heads) for mask in parts]).sum(0)
    pairs = torch.stack([mask.sum(-1).square() for mask in parts]).sum(0)
    if reduction == "rows":
        return (errors / pairs.clamp(min=1)).mean()
    return errors.sum() / (pairs.sum() if num_pairs is None else num_pairs).clamp(min=1)


def _squared_errors(teacher: Pair, student: Pair, mask: Tensor, num_heads: int) -> Tensor:
    """Return the squared errors of each row, summed over the pairs of tokens in a mask, mean over heads; [B]."""
    tq, tk, sq, sk = (_heads(tensor, mask, num_heads) for tensor in (*teacher, *student))
    own = (sq.mT @ sq) * (sk.mT @ sk)
    cross = (sq.mT @ tq) * (sk.mT @ tk)
    target = (tq.mT @ tq) * (tk.mT @ tk)
    sums = own.sum((-2, -1)) - 2 * cross.sum((-2, -1)) + target.sum((-2, -1))  # [B, H]
    return sums.mean(-1)


def _heads(tensor: Tensor, mask: Tensor, num_heads: int) -> Tensor:
    """Split [B, L, D] into [B, H, L, d], float32, zero at padding, divided by d^(1/4) so that products are scores."""
    width = tensor.shape[-1] // num_heads
    tensor = tensor.float() * (mask.unsqueeze(-1) * width**-0.25)
    return tensor.unflatten(-1, (num_heads, width)).transpose(1, 2)
