"""What a process computes on: named for people, and refused where it is not what the machine was bought for."""

import os
import platform
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from pretrain.precision import native_dtypes

_CPUINFO, _DRIVER, _GPUS = Path("/proc/cpuinfo"), Path("/proc/driver/nvidia/version"), Path("/proc/driver/nvidia/gpus")
# The oldest NVIDIA driver that each major version of CUDA runs with (CUDA's release notes, minor version compatibility)
_OLDEST_DRIVER = {13: 580, 12: 525, 11: 450}


def chosen_device() -> torch.device:
    """Where a job of one process will compute, as DeepSpeed chooses it: a GPU where torch can use one."""
    wanted = os.environ.get("DS_ACCELERATOR") or ("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(wanted)


def device_name(device: torch.device | str) -> str:
    """`NVIDIA H200`, or `CPU, AMD EPYC 7B13, 2 threads`."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    threads = torch.get_num_threads()
    return f"CPU, {cpu_name()}, {threads} {'thread' if threads == 1 else 'threads'}"


def cpu_name() -> str:
    """The processor's model by /proc/cpuinfo, or what Python knows of it."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", _CPUINFO.read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def count_devices(names: Iterable[str]) -> str:
    """`8 x NVIDIA H200`, `2 x CPU, ... and 1 x NVIDIA L4`, or the one name there is."""
    counts = Counter(names)
    if counts.total() == 1:
        return next(iter(counts))
    return " and ".join(f"{count} x {name}" for name, count in counts.items())


def explain_native(device: torch.device | str) -> str:
    """A remark where the device is a CPU without bfloat16, which most recipes assume; else nothing."""
    lacks = torch.device(device).type == "cpu" and "bfloat16" not in native_dtypes(device)
    return " (no native bfloat16)" if lacks else ""


def check_accelerator() -> None:
    """ValueError where the machine has NVIDIA GPUs that this build of torch cannot use: it would train on the CPU.

    DS_ACCELERATOR=cpu, or a CUDA_VISIBLE_DEVICES that hides all of them, says that this is meant. A CPU build of torch
    beside GPUs is only warned of.
    """
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1", "NoDevFiles")
    if os.environ.get("DS_ACCELERATOR") or hidden or not _GPUS.is_dir() or not any(_GPUS.iterdir()):
        return
    if torch.version.hip or torch.cuda.is_available():
        return
    if torch.version.cuda is None:
        what = f"this machine has NVIDIA GPUs, and torch {torch.__version__} is a build for CPUs"
        warnings.warn(f"{what}: trains on the CPU; install a CUDA build of torch to use them", stacklevel=2)
        return
    oldest = _OLDEST_DRIVER.get(int(torch.version.cuda.split(".")[0]))
    wants = f"it wants NVIDIA driver {oldest} or newer, " if oldest else ""
    raise ValueError(
        f"this machine has NVIDIA GPUs, and torch {torch.__version__} (CUDA {torch.version.cuda}) cannot use them: "
        f"{wants}there is {_driver_version()}; install a newer driver or a build of torch for an older CUDA (README), "
        "or set DS_ACCELERATOR=cpu to train on the CPU"
    )


def _driver_version() -> str:
    """Of the NVIDIA driver that the kernel has loaded."""
    try:
        found = re.search(r"\s(\d+\.[\d.]+)\s", _DRIVER.read_text())
    except OSError:
        found = None
    return found.group(1) if found else "one of an unknown version"


@contextmanager
def explain_out_of_memory(batch: Mapping[str, Tensor]) -> Iterator[None]:
    """ValueError that names the key to change where the device has no room for this micro-batch [B, L]."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        rows, tokens = batch["input_ids"].shape
        cure = (
            f"set deepspeed.train_micro_batch_size_per_gpu to {rows // 2} or less: steps stay the same, in more parts"
            if rows > 1
            else "one row at a time is the least, so shorter rows (corpus.row_tokens) or a larger GPU are needed"
        )
        first = str(error).split(". ")[0]
        raise ValueError(f"out of memory with {rows} rows of {tokens} tokens at once; {cure} ({first})") from error
