"""Losses computed in float32 inside a step whose models compute in bfloat16."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def float32_inside(device_type: str) -> Iterator[None]:
    """Autocast is off. On a GPU where it was on, matrix products may be TF32, which is many times as fast.

    TF32 keeps 10 bits of a factor's fraction and adds in float32; autocast, which was asked for, would keep 7.
    """
    before = torch.get_float32_matmul_precision()
    is_lowered = device_type == "cuda" and torch.is_autocast_enabled(device_type)
    with torch.autocast(device_type, enabled=False):
        if is_lowered:
            torch.set_float32_matmul_precision("high")
        try:
            yield
        finally:
            if is_lowered:
                torch.set_float32_matmul_precision(before)
