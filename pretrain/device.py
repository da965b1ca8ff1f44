"""The device a process computes on: its name, a check that GPUs are usable, and an explanation of out-of-memory."""

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
    """Return the device of a job of one process, as DeepSpeed chooses it: DS_ACCELERATOR, a usable GPU, or the CPU."""
    name = os.environ.get("DS_ACCELERATOR") or ("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def device_name(device: torch.device | str) -> str:
    """Return a name for people: `NVIDIA H200`, or `CPU, AMD EPYC 7B13, 2 threads`."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    threads = torch.get_num_threads()
    return f"CPU, {cpu_name()}, {threads} {'thread' if threads == 1 else 'threads'}"


def cpu_name() -> str:
    """Return the processor's model from /proc/cpuinfo, or else what Python knows about it."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", _CPUINFO.read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def count_devices(names: Iterable[str]) -> str:
    """Summarise device names: `8 x NVIDIA H200`, `2 x CPU, ... and 1 x NVIDIA L4`, or a single name as it is."""
    counts = Counter(names)
    if counts.total() == 1:
        return next(iter(counts))
    return " and ".join(f"{count} x {name}" for name, count in counts.items())


def explain_native(device: torch.device | str) -> str:
    """Return ` (no native bfloat16)` for a CPU without bfloat16 instructions, otherwise an empty string."""
    emulates = torch.device(device).type == "cpu" and "bfloat16" not in native_dtypes(device)
    return " (no native bfloat16)" if emulates else ""


def check_accelerator() -> None:
    """Raise ValueError if the machine has NVIDIA GPUs that this build of torch cannot use, as it would use the CPU.

    Setting DS_ACCELERATOR=cpu, or a CUDA_VISIBLE_DEVICES that hides all GPUs, turns the check off. A CPU build of torch
    on a machine with GPUs only causes a warning.
    """
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1", "NoDevFiles")
    if os.environ.get("DS_ACCELERATOR") or hidden or not _GPUS.is_dir() or not any(_GPUS.iterdir()):
        return
    if torch.version.hip or torch.cuda.is_available():
        return
    if torch.version.cuda is None:
        what = f"this machine has NVIDIA GPUs, and torch {torch.__version__} is a build for CPUs"
        warnings.warn(f"{what}: training on the CPU; install a CUDA build of torch to use the GPUs", stacklevel=2)
        return
    oldest = _OLDEST_DRIVER.get(int(torch.version.cuda.split(".")[0]))
    needs = f"it needs NVIDIA driver {oldest} or newer, " if oldest else ""
    raise ValueError(
        f"this machine has NVIDIA GPUs, but torch {torch.__version__} (CUDA {torch.version.cuda}) cannot use them: "
        f"{needs}the installed driver is {_driver_version()}; install a newer driver or a build of torch for an older "
        "CUDA (README), or set DS_ACCELERATOR=cpu to train on the CPU"
    )


def _driver_version() -> str:
    """Return the version of the NVIDIA driver that the kernel has loaded."""
    try:
        found = re.search(r"\s(\d+\.[\d.]+)\s", _DRIVER.read_text())
    except OSError:
        found = None
    return found.group(1) if found else "of an unknown version"


@contextmanager
def explain_out_of_memory(batch: Mapping[str, Tensor]) -> Iterator[None]:
    """Raise ValueError naming the key to change if the device runs out of memory for this micro-batch [B, L]."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        rows, tokens = batch["input_ids"].shape
        remedy = (
            f"set deepspeed.train_micro_batch_size_per_gpu to {rows // 2} or less: the result stays the same, each "
            "step is computed in more parts"
            if rows > 1
            else "micro-batches cannot be smaller than one row: use shorter rows (corpus.row_tokens) or a larger GPU"
        )
        first = str(error).split(". ")[0]
        raise ValueError(f"out of memory with {rows} rows of {tokens} tokens at once; {remedy} ({first})") from error
