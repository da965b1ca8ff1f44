"""The floating-point type that models compute in: the best one the device supports natively, unless configured.

Losses are always computed in float32.
"""

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch

Dtype = Literal["float32", "bfloat16", "float16"]
WantedDtype = Literal["auto", "float32", "bfloat16", "float16"]  # "auto": the best type native to the device
# Instruction sets that multiply bfloat16, by torch.cpu.get_capabilities(). AVX-512 alone does not: torch and oneDNN
# report bfloat16 as supported there but emulate it, five times slower than float32.
_CPU_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
_TRIAL_SIZE, _TRIAL_REPEATS = 256, 3


def native_dtypes(device: torch.device | str) -> tuple[Dtype, ...]:
    """Return the types for which the device has matrix product instructions, the best for training first.

    bfloat16 on GPUs of compute capability 8.0 or higher and on CPUs with AVX512-BF16, AMX or the Arm equivalent;
    float16 on every GPU that multiplies it fast (all but Pascal's consumer cards, 6.1 and 6.2); float32 everywhere.
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
    """Return the wanted type; for "auto" the device's best."""
    return native_dtypes(device)[0] if wanted == "auto" else wanted


def common_dtype(natives: Sequence[Sequence[Dtype]]) -> Dtype:
    """Return the best type that is native to all devices, given the `native_dtypes` of each; at worst float32."""
    return next(dtype for dtype in natives[0] if all(dtype in others for others in natives))


@contextmanager
def autocast(device: torch.device | str, dtype: Dtype) -> Iterator[None]:
    """Run the block under torch's autocast to `dtype`; float32 switches autocast off."""
    with torch.autocast(torch.device(device).type, getattr(torch, dtype), enabled=dtype != "float32"):
        yield


def slowdown(dtype: Dtype, device: torch.device | str) -> float:
    """Measure, in a few milliseconds, how many times as long a matrix product takes in `dtype` as in float32."""
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
    """Return the type in which a loss stores the gradient for an input of `dtype` until the backward pass scales it.

    float32 for float16, which would round gradients to 0 before they are multiplied by the loss scale.
    """
    return torch.float32 if dtype == torch.float16 else dtype


@contextmanager
def float32_inside(device_type: str) -> Iterator[None]:
    """Switch autocast off inside the block. On a GPU where it was on, matrix products use TF32, which is much faster.

    TF32 keeps 10 bits of a factor's fraction and sums in float32; autocast, which the user asked for, would keep 7
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
