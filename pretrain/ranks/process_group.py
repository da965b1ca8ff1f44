"""The C library's heap, where tensors lie on the CPU."""

import ctypes
import logging
import os
import socket
from datetime import timedelta
from typing import Any

import torch

from pretrain.ranks.environment import choose_gpu, export_local_rank, set_gloo_interface, set_triton_cache

# mallopt's numbers in glibc's malloc.h, and what they are set to.
_TRIM_THRESHOLD, _NEVER = -1, -1
_TOP_PAD, _BYTES_AT_ONCE = -2, 64 << 20
_MMAP_MAX, _NONE = -4, 0


def keep_freed_memory() -> None:
    """Keep what tensors free for the next ones instead of giving it back to the system.

    Else every large tensor is mapped anew, and the kernel clears its pages first: without that a step is 1.04 to 1.22
    times as fast (bench/gd_step.py). The process keeps its peak to its end. Nothing happens where there is no glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, _NONE)
        mallopt(_TRIM_THRESHOLD, _NEVER)
        mallopt(_TOP_PAD, _BYTES_AT_ONCE)


def import_deepspeed() -> Any:
    """The deepspeed package, imported when first needed (it takes seconds), with its own kernels switched off.

    On a CPU it would otherwise compile one that only inference uses: two minutes, and for ever where a process that was
    killed left its lock behind.
    """
    import deepspeed

    deepspeed.ops.__compatible_ops__ = {}
    return deepspeed


def start_distributed(timeout_seconds: float = 1800) -> torch.device:
    """Join the process group that the environment describes (a bare `python` is a world of one)."""
    deepspeed = import_deepspeed()
    from deepspeed.accelerator import get_accelerator

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    if "RANK" not in os.environ:
        os.environ.update(alone, MASTER_PORT=str(_free_port()))
    set_gloo_interface()
    accelerator = get_accelerator()
    local_rank = int(os.environ["LOCAL_RANK"])
    if accelerator.device_name() == "cpu":
        keep_freed_memory()
    else:
        set_triton_cache()
        local_rank = choose_gpu(local_rank, accelerator.device_count())
        export_local_rank(local_rank)
        accelerator.set_device(local_rank)
    deepspeed.init_distributed(
        accelerator.communication_backend_name(), timeout=timedelta(seconds=timeout_seconds), verbose=False
    )
    return torch.device(accelerator.device_name(local_rank))


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
