"""The attention implementation that models use, the fastest on this machine, registered with transformers."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask, sdpa_mask

# On a CPU, plain matrix products are as fast as the fused kernel in the forward pass and three times as fast with the
# backward pass at L = 128, and equally fast at L = 512 (bench/attention.py).
FASTEST_ATTENTION = "fused" if torch.cuda.is_available() else "plain"
if torch.cuda.is_available():
    # On Hopper and later PyTorch prefers cuDNN's kernel, which makes a new plan for every batch shape, a second each on
    # some machines, and has returned gradients that are not finite (pytorch#196678, masked rows of some lengths).
    torch.backends.cuda.enable_cudnn_sdp(False)
_FUSED_WIDTHS = 8  # with a mask, fused kernels need a head width that is a multiple of this


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
    """PyTorch's fused attention of [B, H, L, d], with or without a mask, for every d. Return [B, L, H, d] and None.

    With a mask and a d such as 312 / 12 = 26, PyTorch would fall back to plain float32 products that store all of
    [B, H, L, L]. So the width is padded with zeros, which change neither the scores nor the result.
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
    """Transformers' eager attention, but scaling the queries [B, H, L, d] instead of the scores [B, H, L, L].

    Return the result [B, L, H, d] and the attention weights [B, H, L, L].
    """
    scores = (query * (query.shape[-1] ** -0.5 if scaling is None else scaling)) @ key.mT
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.dropout(scores.softmax(-1), p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


AttentionInterface.register("plain", plain_attention)
AttentionInterface.register("fused", fused_attention)
# Without these two lines transformers would silently ignore masks.
AttentionMaskInterface.register("plain", eager_mask)
AttentionMaskInterface.register("fused", sdpa_mask)
