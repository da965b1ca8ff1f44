"""Linear layers of a frozen model in the memory layout of oneDNN's kernels, converted once instead of at every call."""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.activations import GELUActivation


class PackedLinear(nn.Module):
    """Compute the same as a linear layer, with bias and activation inside the kernel; CPU only, without gradients."""

    def __init__(self, linear: nn.Linear, activation: Literal["none", "gelu"] = "none") -> None:
        super().__init__()
        self._activation = activation
        self.in_features, self.out_features = linear.in_features, linear.out_features
        # Not a buffer: a tensor in this layout must not be saved, cast or moved.
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, inputs: Tensor) -> Tensor:
        """Map [.., in_features] to [.., out_features]."""
        return torch.ops.mkldnn._linear_pointwise(
            inputs, self._weight, self._bias, self._activation, [], "none" if self._activation == "gelu" else ""
        )


def can_pack(model: nn.Module) -> bool:
    """Return whether the model is on the CPU and in a type for which this machine has oneDNN's kernels.

    In float32 they are never slower than torch's default, and add bias and activation in the same pass.
    """
    parameter = next(model.parameters())
    if parameter.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    has_kernel = parameter.dtype == torch.float32 or (
        parameter.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
    return has_kernel and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def pack_linears(model: Any) -> None:
    """Replace every linear layer of a frozen model, keeping the forward hooks."""
    for module in list(model.modules()):
        # BERT's feed-forward: the kernel applies the activation before the result is rounded.
        fuses = isinstance(getattr(module, "intermediate_act_fn", None), GELUActivation)
        if fuses:
            module.intermediate_act_fn = nn.Identity().train(module.training)
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                packed = PackedLinear(child, "gelu" if fuses else "none").train(child.training)
                packed._forward_hooks.update(child._forward_hooks)
                packed._forward_hooks_with_kwargs.update(child._forward_hooks_with_kwargs)
                setattr(module, name, packed)
