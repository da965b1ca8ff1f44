"""Training with the arithmetic of exported graphs, so that a student learns to answer well with it.

Numbers are rounded as in the graphs that launch/exporting writes and onnxruntime computes:

| of | in an int8 graph | in an int4 graph |
|---|---|---|
| embeddings | 256 steps between the table's least and largest number | the same |
| weights of linear layers [out, in] | 129 steps for each row, 64 either side of zero | 16 for each block of 32 inputs |
| inputs of linear layers | 256 steps between the least and largest number of the batch | not rounded |

Zero is always a step. Gradients are those without rounding (straight through, arXiv:1308.3432). Weights stay float32.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from pretrain.settings import Settings

BLOCK_INPUTS = 32
_OF_8_BITS = 64  # of the 127 there are: see write_int8 in launch/exporting/graph.py
_SMALLEST = torch.finfo(torch.float32).tiny
_NOT_IMITATED = (nn.modules.conv._ConvNd, nn.RNNBase)


class QuantizationConfig(Settings):
    """The last part of the run computes as the exported graph with weights of 8 or 4 bits; the loss is the same."""

    weights: Literal[8, 4]  # bits: 8 for launch/export.py --int8, whose activations have 8 too, 4 for --int4
    begin: Annotated[float, Field(ge=0, lt=1)] = 0.9  # share of the run's steps before; the last step is never before

    def is_due(self, step: int, total_steps: int) -> bool:
        """Return whether the step after so many is computed with rounded numbers."""
        return step >= int(self.begin * total_steps)


class Rounding(TorchFunctionMode):
    """Within it, linear layers and embeddings compute as in an exported graph with weights of 8 or 4 bits."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self._bits = bits

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Compute one function of torch."""
        if func is functional.linear:
            return self._linear(*args, **(kwargs or {}))
        found = func(*args, **(kwargs or {}))
        if func is functional.embedding:
            table: Tensor = args[1]
            return _straight_through(found, _round_between(found.detach(), *table.detach().aminmax()))
        return found

    def _linear(self, inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if self._bits == 8:
            values = inputs.detach().float()  # of half the bits under autocast
            inputs = _straight_through(inputs, _round_between(values, *values.aminmax()))
            rounded = _round_rows(weight.detach())
        else:
            numbers, steps = round_blocks(weight.detach())
            rounded = (numbers * steps).flatten(1)[:, : weight.shape[1]]
        return functional.linear(inputs, _straight_through(weight, rounded), bias)


def check_rounding(model: nn.Module, bits: int) -> None:
    """Raise ValueError if a model has layers that an exported graph rounds and `Rounding` does not."""
    found = sorted({type(module).__name__ for module in model.modules() if isinstance(module, _NOT_IMITATED)})
    if found and bits == 8:
        raise ValueError(
            f"quantization.weights: must be 4, or quantization left out: an int8 graph also rounds {', '.join(found)}, "
            "which training does not"
        )


def round_blocks(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return a weight [out, in] in blocks of whole steps, and the steps, as onnxruntime's MatMulNBits reads them.

    The number of largest size in a block is -8 steps, so that a step is negative if that number is positive.

    Returns:
        numbers, -8 to 7, with zeros to fill the last block [out, ceil(in / 32), 32]; steps [out, ceil(in / 32), 1].
    """
    blocks = functional.pad(weight, (0, -weight.shape[1] % BLOCK_INPUTS)).unflatten(1, (-1, BLOCK_INPUTS))
    steps = _usable(blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True)) / -8)
    return (blocks / steps).round_().clamp_(-8, 7), steps


def _round_rows(weight: Tensor) -> Tensor:
    steps = _usable(weight.abs().amax(1, keepdim=True) / _OF_8_BITS)
    return (weight / steps).round_().clamp_(-_OF_8_BITS, _OF_8_BITS).mul_(steps)


def _round_between(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    low, high = low.clamp(max=0), high.clamp(min=0)
    step = _usable((high - low) / 255)
    zero = (-low / step).round_()
    return (values / step).round_().add_(zero).clamp_(0, 255).sub_(zero).mul_(step)


def _usable(steps: Tensor) -> Tensor:
    return steps.where(steps.abs() >= _SMALLEST, 1)


def _straight_through(values: Tensor, rounded: Tensor) -> Tensor:
    """Return the rounded values with the gradient of the others."""
    return values + (rounded - values.detach())
