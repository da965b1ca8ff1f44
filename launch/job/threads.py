"""How OpenMP's threads wait for each other. Light imports only: libgomp reads this as torch is imported."""

import os
from collections.abc import MutableMapping

_SPINS = "10000"  # some tens of microseconds; libgomp's own 300,000 are milliseconds


def share_cores(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let a thread that waits for the others give its core away soon, unless the user has said how threads wait.

    By default a waiting thread spins for milliseconds, and the one it waits for may want the very core: on cores that
    others use too a step takes several times its share (bench/threads.py).
    """
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", _SPINS)
