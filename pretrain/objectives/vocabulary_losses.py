"""Masked cross-entropy and distillation at a temperature, without storing the logits of all positions.

Shapes: N positions, E width of the states that a head's decoder takes, V vocabulary. Loss and gradients are computed
together, a chunk of positions at a time, so memory holds the logits of one chunk and the gradients.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pretrain.precision import float32_inside, kept_dtype

# Bytes of logits kept at once, for each model; a GPU needs launches that fill it.
CHUNK_BYTES = {"cpu": 16 << 20, "cuda": 256 << 20}
# Takes a chunk of logits [C, V], which it may overwrite, and its positions; returns its loss and the gradient [C, V].
_Criterion = Callable[[Tensor, slice], tuple[Tensor, Tensor]]


def masked_language_loss(
    states: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, shares: Tensor, chunk_bytes: int | None = None
) -> Tensor:
    """Return the cross-entropy of the labels under softmax(states @ weight.T + bias), summed with weights.

    Args:
        states: [N, E]; weight: [V, E]; bias: [V]. All three get gradients.
        labels: token ids, int64 [N].
        shares: weight of each position in the sum, [N].
        chunk_bytes: bytes of logits kept at a time; depends on the device by default.

    Returns:
        A float32 scalar, computed in float32 from inputs of any floating type; 0 without positions.
    """

    return sampled_language_loss(states, weight, bias, labels, shares, None, chunk_bytes)[0]


def sampled_language_loss(
    states: Tensor,
    weight: Tensor,
    bias: Tensor,
    labels: Tensor,
    shares: Tensor,
    draws: Tensor | None,
    chunk_bytes: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the loss of `masked_language_loss`, and a token sampled from each softmax, int64 [N], without gradients.

    Args:
        draws: a random number from 0 to below 1 for each position, [N]: the token is the first whose cumulative
            probability exceeds it. Without them the tokens are the labels.
    """
    sampled = labels.clone()

    def cross_entropy(logits: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        wanted, share = labels[part].unsqueeze(-1), shares[part].float().unsqueeze(-1)
        log_q = torch.log_softmax(logits, -1)
        loss = -(log_q.gather(-1, wanted) * share).sum()
        q = log_q.exp_()
        if draws is not None:
            sampled[part] = _sample(q, draws[part])
        return loss, q.mul_(share).scatter_add_(-1, wanted, -share)

    return _sum_by_chunks(states, weight, bias, cross_entropy, chunk_bytes), sampled


def _sample(probabilities: Tensor, draws: Tensor) -> Tensor:
    """Return the indexes [N] at which cumulative probabilities [N, V] first exceed the draws [N], in float64."""
    cumulative = probabilities.cumsum(-1, dtype=torch.float64)  # float32 would lose rare tokens behind others
    wanted = (draws.double() * cumulative[:, -1]).unsqueeze(-1)
    return torch.searchsorted(cumulative, wanted, right=True).squeeze(-1).clamp(max=probabilities.shape[-1] - 1)


def distillation_loss(
    teacher: tuple[Tensor, Tensor, Tensor],
    student: tuple[Tensor, Tensor, Tensor],
    shares: Tensor,
    temperature: float,
    chunk_bytes: int | None = None,
) -> Tensor:
    """Return T^2 x KL(teacher || student) between softmaxes of logits / T, summed over positions with weights.

    Args:
        teacher: states [N, E_teacher], weight [V, E_teacher] and bias [V]; they get no gradient.
        student: states [N, E_student], weight [V, E_student] and bias [V].
        shares: weight of each position in the sum, [N].
        temperature: T.
        chunk_bytes: bytes of logits kept at a time, for each model; depends on the device by default.

    Returns:
        A float32 scalar, computed in float32 from inputs of any floating type; 0 without positions.
    """
    states, weight, bias = (tensor.detach().float() for tensor in teacher)

    def divergence(logits: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        share = shares[part].float().unsqueeze(-1)
        log_q = torch.log_softmax(logits.div_(temperature), -1)
        log_p = torch.log_softmax(torch.addmm(bias, states[part], weight.T).div_(temperature), -1)
        p = log_p.exp()
        loss = (log_p.sub_(log_q).mul_(p).sum(-1, keepdim=True) * share).sum() * temperature**2
        return loss, log_q.exp_().sub_(p).mul_(share * temperature)

    return _sum_by_chunks(*student, divergence, chunk_bytes)


def _sum_by_chunks(
    states: Tensor, weight: Tensor, bias: Tensor, criterion: _Criterion, chunk_bytes: int | None
) -> Tensor:
    if chunk_bytes is None:
        chunk_bytes = CHUNK_BYTES.get(states.device.type, CHUNK_BYTES["cuda"])
    loss: Tensor = _ChunkedLoss.apply(states, weight, bias, criterion, max(1, chunk_bytes // (4 * len(weight))))
    return loss


class _ChunkedLoss(torch.autograd.Function):
    """Computes the gradient together with the loss: with respect to the logits it is known without a backward pass."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor, criterion: _Criterion, chunk: int) -> Tensor:
        with float32_inside(states.device.type):
            loss, gradients = _loss_and_gradients(states.float(), weight.float(), bias.float(), criterion, chunk)
        pairs = zip(gradients, (states, weight, bias), strict=True)
        ctx.save_for_backward(*(gradient.to(kept_dtype(tensor.dtype)) for gradient, tensor in pairs))
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_output: Tensor) -> tuple[Tensor | None, ...]:
        return *(gradient * grad_output[0] for gradient in ctx.saved_tensors), None, None


def _loss_and_gradients(
    states: Tensor, weight: Tensor, bias: Tensor, criterion: _Criterion, chunk: int
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    loss = torch.zeros((), device=states.device)
    grad_states, grad_weight, grad_bias = torch.empty_like(states), torch.zeros_like(weight), torch.zeros_like(bias)
    for start in range(0, len(states), chunk):
        part = slice(start, start + chunk)
        value, grad_logits = criterion(torch.addmm(bias, states[part], weight.T), part)
        loss += value
        torch.mm(grad_logits, weight, out=grad_states[part])
        grad_weight.addmm_(grad_logits.T, states[part])
        grad_bias += grad_logits.sum(0)
    return loss, (grad_states, grad_weight, grad_bias)
