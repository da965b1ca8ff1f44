"""The attention that models run with here: the fastest that the machine has, told to transformers under one name."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask, sdpa_mask

# On a CPU plain matrix products are as fast as the fused kernel forward and three times as fast with the backward pass
# at L = 128; at L = 512 they are even (bench/attention.py).
FASTEST_ATTENTION = "fused" if torch.cuda.is_available() else "plain"
if torch.cuda.is_available():
    # PyTorch prefers cuDNN's on Hopper and later, which plans anew for every shape of a batch, for a second on some
    # machines, and has given gradients that are not finite (pytorch#196678, of masked rows of some lengths).
    torch.backends.cuda.enable_cudnn_sdp(False)
_FUSED_WIDTHS = 8  # fused kernels that take a mask want a head's width to be a multiple of this


def fused_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """PyTorch's fused attention of [B, H, L, d], masked or not, for every d.

    With a mask and a d like 312 / 12 = 26 PyTorch would take plain products, in float32, that keep all of [B, H, L, L].
    Zeros that fill up the width change neither scores nor what is mixed.
    """
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
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """As transformers' eager attention, but queries [B, H, L, d] are scaled instead of scores [B, H, L, L]."""
    scores = (query * (query.shape[-1] ** -0.5 if scaling is None else scaling)) @ key.mT
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.dropout(scores.softmax(-1), p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


AttentionInterface.register("plain", plain_attention)
AttentionInterface.register("fused", fused_attention)
# Without these transformers would leave out masks, silently.
AttentionMaskInterface.register("plain", eager_mask)
AttentionMaskInterface.register("fused", sdpa_mask)
