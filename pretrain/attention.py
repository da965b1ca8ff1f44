"""The attention that models run with here: the fastest that the machine has, told to transformers under one name."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

# On a CPU plain matrix products are as fast as the fused kernel forward and three times as fast with the backward pass
# at L = 128; at L = 512 they are even (bench/attention.py).
FASTEST_ATTENTION = "sdpa" if torch.cuda.is_available() else "plain"


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
AttentionMaskInterface.register("plain", eager_mask)  # or transformers would leave out the mask, silently
