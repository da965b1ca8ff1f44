"""Waiting of OpenMP's threads. This module must not import torch: libgomp reads the setting when torch is imported."""

import os
from collections.abc import MutableMapping

_SPINS = "10000"  # tens of microseconds; libgomp's default of 300,000 takes milliseconds


def share_cores(environment: MutableMapping[str, str] = os.environ) -> None:
    """Make waiting threads release their core early, unless the user has configured how threads wait.

    By default a waiting thread spins for milliseconds and may block the core of the thread it waits for: on cores
    shared with other processes a step then takes several times as long as necessary (bench/threads.py).
    """
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", _SPINS)
