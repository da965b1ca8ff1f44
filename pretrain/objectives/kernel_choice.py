"""Which kernel computes the relation loss: Triton's where it works on this GPU, the portable one elsewhere.

Shapes: B rows, L tokens, D hidden width (the model's own).
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
_Model = tuple[int, torch.dtype, bool]  # D, the type of a and b, and whether they are one tensor

_TRIAL_TOKENS = 80  # more than a tile, and no multiple of one
_TOLERANCE = 0.03  # relative, for gradients rounded to bfloat16; a kernel that is wrong is off by far more
_MIN_CAPABILITY = (8, 0)  # of NVIDIA's GPUs: what Triton supports, and the first with bfloat16 and TF32


def triton_problem(device_type: str) -> str | None:
    """Why Triton cannot run on this kind of device, or None; known before anything is compiled."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (it comes with the CUDA builds of torch); use auto or portable"
    if device_type != "cuda":
        if os.environ.get("TRITON_INTERPRET") == "1":
            return None
        return "triton needs a GPU (or, to try it, TRITON_INTERPRET=1); use auto or portable"
    if torch.version.cuda and torch.cuda.get_device_capability() < _MIN_CAPABILITY:
        have = ".".join(map(str, torch.cuda.get_device_capability()))
        return f"triton needs a GPU of compute capability 8.0 or higher, this one has {have}; use auto or portable"
    return None


def use_triton(kernel: Kernel, teacher: Pair, student: Pair, num_relation_heads: int) -> bool:
    """Whether Triton computes the relation loss of these tensors, [B, L, D] each.

    Before the first loss of a kind of tensors the kernels are compiled and tried on a few tokens. Where that fails,
    "auto" takes the portable kernel, with a warning.

    Raises:
        ValueError: where the configuration names "triton" and it does not work here.
    """
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
        f"relation losses use the portable kernel, the Triton one does not work here: {problem}", stacklevel=2
    )


@cache
def try_triton(device: torch.device, teacher: _Model, student: _Model, heads: int, precision: str) -> str | None:
    """What is wrong with the Triton kernels for such tensors, or None, by a trial against float64.

    `precision` is that of float32 products, which are compiled differently.
    """
    generator = torch.Generator().manual_seed(0)  # the run's own random numbers stay as they are

    def draw(width: int, dtype: torch.dtype, same: bool) -> Pair:
        a, b = torch.randn(2, 2, _TRIAL_TOKENS, width, generator=generator).to(device, dtype)
        return a, a if same else b

    pairs = draw(*teacher), draw(*student)
    mask = torch.ones(2, _TRIAL_TOKENS, dtype=torch.bool, device=device)
    mask[1, _TRIAL_TOKENS // 3 :] = False
    weight = mask / (mask.sum(-1, keepdim=True) * (heads * len(mask)))
    try:
        from pretrain.objectives.relation_kernels import relation_loss_and_gradient

        loss, *gradients = relation_loss_and_gradient(*pairs, mask, weight, heads)
        found = [loss, *(one for one in gradients if one is not None)]
        expected = exact_loss_and_gradients(*pairs, mask, heads)
        errors = [relative_error(a, b) for a, b in zip(found, expected, strict=True)]
    except Exception as error:  # too little shared memory, no C compiler, an old driver, a fault of the compiler, ...
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    if not max(errors) < _TOLERANCE:
        return f"its result on random tokens is wrong (relative error {max(errors):.1g})"
    return None


def exact_loss_and_gradients(teacher: Pair, student: Pair, mask: Tensor, num_relation_heads: int) -> list[Tensor]:
    """The relation loss as its equations have it, in float64 by autograd, and its gradients by the student's tensors.

    A slow and obvious reference for the kernels: the loss, then a gradient [B, L, D] for a, and one for b where b is
    another tensor.
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
    """Norm of the difference over the norm of what was expected; NaN where either is not a number."""
    return float((found.detach().double() - expected).norm() / expected.norm())
