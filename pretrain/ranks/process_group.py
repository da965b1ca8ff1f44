"""The start of a rank: settings of its heap and of DeepSpeed, then the process group it joins."""

import ctypes
import logging
import os
from datetime import timedelta
from typing import Any

import torch

from pretrain.ranks.environment import (
    choose_gpu,
    explain_lost_device,
    export_local_rank,
    set_gloo_interface,
    set_triton_cache,
)
from pretrain.ranks.meeting import explain_refused_port, prepare_meeting

# Parameters of mallopt in glibc's malloc.h, and their values here.
_TRIM_THRESHOLD, _NEVER = -1, -1
_TOP_PAD, _BYTES_AT_ONCE = -2, 64 << 20
_MMAP_MAX, _NONE = -4, 0


def keep_freed_memory() -> None:
    """Keep freed memory for the next tensors instead of returning it to the system.

    Otherwise every large tensor is mapped anew and the kernel zeroes its pages first; keeping it makes a step 1.04 to
    1.22 times as fast (bench/gd_step.py). The process then keeps its peak memory until it ends. Without glibc this
    does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, _NONE)
        mallopt(_TRIM_THRESHOLD, _NEVER)
        mallopt(_TOP_PAD, _BYTES_AT_ONCE)


def import_deepspeed() -> Any:
    """Import deepspeed when it is first needed (it takes seconds) and switch its own kernels off.

    On a CPU it would otherwise compile one that only inference uses: for two minutes, or forever if a killed process
    left its lock file behind.
    """
    import deepspeed

    deepspeed.ops.__compatible_ops__ = {}
    return deepspeed


def start_distributed(timeout_seconds: float = 1800) -> torch.device:
    """Join the process group that the environment describes and return this rank's device.

    The only rank of a job, started by plain `python` or a launcher, is a group of its own at a free port. Raise
    ValueError for what no restart can mend: no GPU for this rank, a port in use, a host or interface that is not there.
    """
    deepspeed = import_deepspeed()
    from deepspeed.accelerator import get_accelerator

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    prepare_meeting()
    set_gloo_interface()
    accelerator = get_accelerator()
    local_rank = int(os.environ["LOCAL_RANK"])
    if accelerator.device_name() == "cpu":
        keep_freed_memory()
    else:
        set_triton_cache()
        local_rank = choose_gpu(local_rank, accelerator.device_count())
        export_local_rank(local_rank)
        with explain_lost_device(local_rank):
            accelerator.set_device(local_rank)
    with explain_refused_port():
        deepspeed.init_distributed(
            accelerator.communication_backend_name(), timeout=timedelta(seconds=timeout_seconds), verbose=False
        )
    return torch.device(accelerator.device_name(local_rank))
