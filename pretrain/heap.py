"""The C library's heap, where tensors lie on the CPU."""

import ctypes

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
