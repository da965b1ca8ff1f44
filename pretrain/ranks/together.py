"""Exchange of results and errors between ranks, so that all of them continue or stop together."""

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist
from torch.distributed import ProcessGroup

_Result = TypeVar("_Result")


def on_rank_zero(action: Callable[[], _Result]) -> _Result:
    """Run `action` on rank 0 and return its result on every rank.

    ValueError and OSError become a ValueError on every rank; any other exception is raised on rank 0 and becomes a
    ValueError on the others.
    """
    outcome: list = [None, None]
    fault: Exception | None = None
    if dist.get_rank() == 0:
        try:
            outcome[0] = action()
        except Exception as error:  # the other ranks are waiting: send it before raising it
            outcome[1] = str(error)
            fault = None if isinstance(error, ValueError | OSError) else error
    dist.broadcast_object_list(outcome, group=_cpu_group())
    if fault:
        raise fault
    if outcome[1] is not None:
        raise ValueError(outcome[1])
    return outcome[0]


_cpu_groups: dict[ProcessGroup | None, ProcessGroup] = {}


def _cpu_group() -> ProcessGroup | None:
    """Return a group on the CPU: on a device, sends are only queued, and are lost if the rank exits."""
    if dist.get_backend() == "gloo":
        return None
    if dist.group.WORLD not in _cpu_groups:
        _cpu_groups[dist.group.WORLD] = dist.new_group(backend="gloo")
    return _cpu_groups[dist.group.WORLD]


def gather_objects(own: _Result) -> list[_Result]:
    """Return every rank's object, in the order of ranks, on all of them."""
    objects: list = [None] * dist.get_world_size()
    dist.all_gather_object(objects, own, group=_cpu_group())
    return objects


def raise_together(problem: str | None) -> None:
    """Raise ValueError on every rank if at least one rank has a problem; the message is that of the lowest such."""
    problems = gather_objects(problem)
    for rank, one in enumerate(problems):
        if one is not None:
            where = f"rank {rank}: " if len(problems) > 1 else ""
            raise ValueError(f"{where}{one}")
