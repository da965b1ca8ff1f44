"""The floating-point type that models compute in: what the device has instructions for, unless the user names one.

Losses are always computed in float32, whatever the models compute in.
"""

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch

Dtype = Literal["float32", "bfloat16", "float16"]
WantedDtype = Literal["auto", "float32", "bfloat16", "float16"]  # "auto": what the device multiplies natively
# Instruction sets that multiply bfloat16, by torch.cpu.get_capabilities(). AVX-512 alone does not: torch and oneDNN
# call bfloat16 supported there and emulate it, five times slower than float32.
_CPU_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
_TRIAL_SIZE, _TRIAL_REPEATS = 256, 3


def native_dtypes(device: torch.device | str) -> tuple[Dtype, ...]:
    """The types whose matrix products the device has instructions for, the best for training first.

    bfloat16 on GPUs of compute capability 8.0 and up and on CPUs with AVX512-BF16, AMX or the Arm equivalent; float16
    on every GPU with fast products of it (all but Pascal's consumer cards, 6.1 and 6.2); float32 everywhere.
    """
    device = torch.device(device)
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability >= (8, 0):
            return ("bfloat16", "float16", "float32")
        return ("float16", "float32") if capability >= (7, 0) or capability == (6, 0) else ("float32",)
    if device.type == "cpu" and _cpu_multiplies_bfloat16():
        return ("bfloat16", "float32")
    return ("float32",)


def _cpu_multiplies_bfloat16() -> bool:
    if not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in _CPU_BFLOAT16)


def choose_dtype(wanted: WantedDtype, device: torch.device | str) -> Dtype:
    """The type that is wanted, or the device's best."""
    return native_dtypes(device)[0] if wanted == "auto" else wanted


def common_dtype(natives: Sequence[Sequence[Dtype]]) -> Dtype:
    """The best of the first device's types that all devices have; float32 at least."""
    return next(dtype for dtype in natives[0] if all(dtype in others for others in natives))


@contextmanager
def autocast(device: torch.device | str, dtype: Dtype) -> Iterator[None]:
    """Compute in `dtype` what torch's autocast does in a lower type; in float32 autocast is off."""
    with torch.autocast(torch.device(device).type, getattr(torch, dtype), enabled=dtype != "float32"):
        yield


def slowdown(dtype: Dtype, device: torch.device | str) -> float:
    """How many times as long a matrix product takes in `dtype` as in float32: measured now, in some milliseconds."""
    factors = {name: torch.ones(_TRIAL_SIZE, _TRIAL_SIZE, device=device) for name in ("float32", dtype)}
    factors = {name: factor.to(getattr(torch, name)) for name, factor in factors.items()}
    seconds: dict[str, list[float]] = {name: [] for name in factors}
    for _ in range(1 + _TRIAL_REPEATS):  # the first one fills caches
        for name, factor in factors.items():
            started = time.perf_counter()
            (factor @ factor).sum().item()  # waits for the device
            seconds[name].append(time.perf_counter() - started)
    low, full = (statistics.median(seconds[name][1:]) for name in (dtype, "float32"))
    return low / full


def kept_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type in which a loss keeps the gradient of a tensor of `dtype` until the backward pass multiplies it.

    A gradient is small before it is multiplied by the loss scale; float16 would round it to 0.
    """
    return torch.float32 if dtype == torch.float16 else dtype


@contextmanager
def float32_inside(device_type: str) -> Iterator[None]:
    """Autocast is off. On a GPU where it was on, matrix products may be TF32, which is many times as fast.

    TF32 keeps 10 bits of a factor's fraction and adds in float32; autocast, which was asked for, would keep 7
    (bfloat16) or 10 (float16).
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
