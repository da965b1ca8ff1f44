"""The attention implementation that models use, the fastest on this machine, registered with transformers.

Models whose attention goes through transformers' interface hand it their queries, keys and values [B, H, L, d]. Keys
and values may have fewer heads, which are then shared by groups of the queries'.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, bidirectional_mask_function, sdpa_mask

# On a CPU, plain matrix products are as fast as the fused kernel in the forward pass and three times as fast with the
# backward pass at L = 128, and equally fast at L = 512 (bench/attention.py).
FASTEST_ATTENTION = "fused" if torch.cuda.is_available() else "plain"
if torch.cuda.is_available():
    # On Hopper and later PyTorch prefers cuDNN's kernel, which makes a new plan for every batch shape, a second each on
    # some machines, and has returned gradients that are not finite (pytorch#196678, masked rows of some lengths).
    torch.backends.cuda.enable_cudnn_sdp(False)
_FUSED_WIDTHS = 8  # with a mask, fused kernels need a head width that is a multiple of this


@dataclass(frozen=True)
class Reading:
    """What happens while a model runs inside `reading`.

    Attributes:
        read: called with the attention module and its queries, keys and values [B, H, L, d] before attention runs.
        documents: integers [B, L]; tokens attend only to tokens with the same one.
    """

    read: Callable[[nn.Module, Tensor, Tensor, Tensor], None]
    documents: Tensor | None = None


_READING: ContextVar[Reading | None] = ContextVar("reading", default=None)


@contextmanager
def reading(one: Reading) -> Iterator[None]:
    """Hand the queries, keys and values of every attention inside the block to `one.read`."""
    token = _READING.set(one)
    try:
        yield
    finally:
        _READING.reset(token)


def _repeated(module: nn.Module, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return keys and values with as many heads as the queries have. A reader, if there is one, is given all three."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    if one := _READING.get():
        one.read(module, query, key, value)
    return key, value


def fused_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor | None]:
    """PyTorch's fused attention of [B, H, L, d], with or without a mask, for every d. Return [B, L, H, d] and None.

    With a mask and a d such as 312 / 12 = 26, PyTorch would fall back to plain float32 products that store all of
    [B, H, L, L]. So the width is padded with zeros, which change neither the scores nor the result.
    """
    if softcap:
        return plain_attention(module, query, key, value, attention_mask, scaling, dropout, softcap)
    key, value = _repeated(module, query, key, value)
    width = query.shape[-1]
    if attention_mask is not None and width % _FUSED_WIDTHS:
        query, key, value = (nn.functional.pad(one, (0, -width % _FUSED_WIDTHS)) for one in (query, key, value))
    mixed = nn.functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attention_mask,
        dropout if module.training else 0.0,
        scale=width**-0.5 if scaling is None else scaling,
    )
    return mixed[..., :width].transpose(1, 2).contiguous(), None


def plain_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Transformers' eager attention, but scaling the queries [B, H, L, d] instead of the scores [B, H, L, L].

    Return the result [B, L, H, d] and the attention weights [B, H, L, L].
    """
    key, value = _repeated(module, query, key, value)
    scores = (query * (query.shape[-1] ** -0.5 if scaling is None else scaling)) @ key.mT
    if softcap:
        scores = (scores / softcap).tanh() * softcap
    if attention_mask is not None:
        if attention_mask.dtype == torch.bool:
            attention_mask = additive(attention_mask, scores.dtype)
        scores = scores + attention_mask
    weights = nn.functional.dropout(scores.softmax(-1), p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the mask to add to scores: 0 where the bool mask is true, elsewhere the lowest number of the type."""
    return torch.where(mask, 0.0, torch.finfo(dtype).min).to(dtype)


def fused_mask(
    *,
    mask_function: Callable[..., Any] = bidirectional_mask_function,
    attention_mask: Tensor | None = None,
    **shape: Any,
) -> Tensor | None:
    """Return the bool mask [B, 1, 1 or L, L] of tokens that are attended to, or None for all.

    Args:
        mask_function: transformers' rule of what a token may attend to: everything, what is before it, a window.
        attention_mask: bool [B, L], true at real tokens.
        shape: the other arguments of transformers' mask functions.
    """
    one = _READING.get()
    documents = one.documents if one else None
    # Padding has a number of its own among documents
    same = None if documents is None else documents[:, None, :, None] == documents[:, None, None, :]
    if mask_function is bidirectional_mask_function:
        if same is not None or attention_mask is None:
            return same
        return attention_mask[:, None, None, :].bool()
    # A causal mask is always made: that it may be left out depends on the module, which is not known here.
    shape |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    if same is not None:
        return sdpa_mask(mask_function=mask_function, attention_mask=None, **shape) & same
    mask = sdpa_mask(mask_function=mask_function, attention_mask=attention_mask, **shape)
    # Padding far from every real token would attend to nothing, and softmax have no answer.
    return mask if attention_mask is None else mask | torch.eye(mask.shape[-1], dtype=torch.bool, device=mask.device)


def plain_mask(*, dtype: torch.dtype = torch.float32, **arguments: Any) -> Tensor | None:
    """Return `fused_mask`'s as numbers that are added to scores."""
    mask = fused_mask(**arguments)
    return None if mask is None else additive(mask, dtype)


AttentionInterface.register("plain", plain_attention)
AttentionInterface.register("fused", fused_attention)
# Without these two lines transformers would silently ignore masks.
AttentionMaskInterface.register("plain", plain_mask)
AttentionMaskInterface.register("fused", fused_mask)
