"""The choice of the relation loss's kernel: Triton's if it works on this GPU, otherwise the portable one.

Shapes: B rows, L tokens, D hidden width of each model.
"""

import importlib.util
import os
import warnings
from functools import cache
from typing import Literal

import torch
from torch import Tensor

Kernel = Literal["auto", "portable", "triton"]
Pair = tuple[Tensor, Tensor]
_Model = tuple[int, torch.dtype, bool]  # D, the type of a and b, and whether they are the same tensor

_TRIAL_TOKENS = 80  # more than a tile, and not a multiple of one
_TOLERANCE = 0.03  # relative, for gradients rounded to bfloat16; the errors of a wrong kernel are far larger
_TAKEN: set[str] = set()
_MIN_CAPABILITY = (8, 0)  # of NVIDIA's GPUs: Triton's minimum, and the first with bfloat16 and TF32


def triton_problem(device_type: str) -> str | None:
    """Return why Triton cannot run on this kind of device, or None. Compiles nothing."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (it comes with the CUDA builds of torch); use auto or portable"
    if device_type != "cuda":
        if os.environ.get("TRITON_INTERPRET") == "1":
            return None
        return "Triton needs a GPU (or, to try it, TRITON_INTERPRET=1); use auto or portable"
    if torch.version.cuda and torch.cuda.get_device_capability() < _MIN_CAPABILITY:
        have = ".".join(map(str, torch.cuda.get_device_capability()))
        return f"Triton needs a GPU of compute capability 8.0 or higher, this one has {have}; use auto or portable"
    return None


def kernels_taken() -> list[str]:
    """Return which kernels have computed relation losses in this process."""
    return sorted(_TAKEN)


def use_triton(kernel: Kernel, teacher: Pair, student: Pair, num_relation_heads: int) -> bool:
    """Return whether Triton is to compute the relation loss of these tensors, [B, L, D] each.

    Before the first loss with such widths and types the kernels are compiled and tested on a few tokens. If that fails,
    "auto" falls back to the portable kernel with a warning.

    Raises:
        ValueError: if `kernel` is "triton" and it does not work here.
    """
    chosen = _works(kernel, teacher, student, num_relation_heads)
    _TAKEN.add("triton" if chosen else "portable")
    return chosen


def _works(kernel: Kernel, teacher: Pair, student: Pair, num_relation_heads: int) -> bool:
    device = student[0].device
    if kernel == "portable" or (kernel == "auto" and device.type != "cuda"):
        return False
    problem = triton_problem(device.type)
    if problem and kernel == "auto":
        return False
    if problem is None and device.type == "cuda":
        models = ((pair[0].shape[-1], pair[0].dtype, pair[0] is pair[1]) for pair in (teacher, student))
        problem = try_triton(device, *models, num_relation_heads, torch.get_float32_matmul_precision())
        if problem and kernel == "auto":
            _warn_once(problem)
    if problem and kernel == "triton":
        raise ValueError(f"kernel: triton does not work here: {problem}")
    return problem is None


@cache
def _warn_once(problem: str) -> None:
    warnings.warn(
        f"relation losses use the portable kernel because the Triton one does not work here: {problem}", stacklevel=2
    )


@cache
def try_triton(device: torch.device, teacher: _Model, student: _Model, heads: int, precision: str) -> str | None:
    """Return what is wrong with the Triton kernels for such tensors, or None, by a comparison with float64.

    `precision` is torch's setting for float32 products, for which the kernels are compiled differently.
    """
    generator = torch.Generator().manual_seed(0)  # leaves the run's random numbers alone

    def draw(width: int, dtype: torch.dtype, same: bool) -> Pair:
        a, b = torch.randn(2, 2, _TRIAL_TOKENS, width, generator=generator).to(device, dtype)
        return a, a if same else b

    pairs = draw(*teacher), draw(*student)
    mask = torch.ones(2, _TRIAL_TOKENS, dtype=torch.bool, device=device)
    mask[1, _TRIAL_TOKENS // 3 :] = False
    weight = mask / (mask.sum(-1, keepdim=True) * (heads * len(mask)))
    try:
        from pretrain.objectives.relation_kernels import relation_loss_and_gradient

        loss, *gradients = relation_loss_and_gradient(*pairs, mask.int() - 1, weight, heads)
        found = [loss, *(one for one in gradients if one is not None)]
        expected = exact_loss_and_gradients(*pairs, mask, heads)
        errors = [relative_error(a, b) for a, b in zip(found, expected, strict=True)]
    except Exception as error:  # too little shared memory, no C compiler, an old driver, an error of the compiler, ...
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    if not max(errors) < _TOLERANCE:
        return f"its result on random tokens is wrong (relative error {max(errors):.1g})"
    return None


def exact_loss_and_gradients(teacher: Pair, student: Pair, mask: Tensor, num_relation_heads: int) -> list[Tensor]:
    """Compute the relation loss directly from its equations, in float64, and its gradients by autograd.

    A slow and simple reference for the kernels. Return the loss, the gradient [B, L, D] of the student's a, and that of
    its b unless b is the same tensor.
    """
    same, log_relations = student[0] is student[1], []
    inputs = [tensor.detach().double().requires_grad_() for tensor in (student[:1] if same else student)]
    with torch.enable_grad():
        for a, b in (teacher, (inputs[0], inputs[-1])):
            a, b = (one.double().unflatten(-1, (num_relation_heads, -1)).transpose(1, 2) for one in (a, b))
            logits = a @ b.mT * a.shape[-1] ** -0.5
            log_relations.append(logits.masked_fill(~mask[:, None, None, :], -1e9).log_softmax(-1))
        p, q = log_relations[0].detach(), log_relations[1]
        divergence = (p.exp() * (p - q)).sum(-1).mean(1)
        loss = ((divergence * mask).sum(-1) / mask.sum(-1)).mean()
        return [loss.detach(), *torch.autograd.grad(loss, inputs)]


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference divided by the norm of `expected`; NaN if either contains NaN."""
    return float((found.detach().double() - expected).norm() / expected.norm())
