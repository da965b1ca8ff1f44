"""Units as tasks of a Ray cluster, every machine of which sees the inputs and the work folder by the same paths.

Ray runs a unit again, on another worker, when its worker or its machine dies. `ray.init()` finds the cluster of
RAY_ADDRESS, or the one started on this machine; where there is none, it starts one of this machine's cores.
"""

import importlib
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from corpus.building.plan import Plan
from corpus.building.workers import ONE_THREAD, Step, run_by_index
from corpus.reading.parts import OnBytes


def run_units(
    step: Step, plan: Plan, work: Path, indexes: Iterable[int], num_workers: int | None, on_bytes: OnBytes
) -> None:
    """As `workers.run_units`, on a cluster; `num_workers` at once at most, as many as it has cores unless told.

    Raises ValueError where Ray is missing, and for a unit whose workers died four times.
    """
    ray = _import_ray()
    with _connected(ray):
        task = ray.remote(num_cpus=1, max_retries=3)(_run)
        waiting = iter(indexes)
        running: dict[Any, int] = {}
        most = num_workers or max(int(ray.cluster_resources().get("CPU", 1)), 1)
        while True:
            while len(running) < most and (index := next(waiting, None)) is not None:
                running[task.remote(step, Path.cwd(), work, index)] = index
            if not running:
                return
            for done in ray.wait(list(running))[0]:
                index = running.pop(done)
                for message in _result(ray, done, index):
                    warnings.warn(message, stacklevel=2)
                on_bytes(plan.units[index].num_bytes)


def _run(step: Step, folder: Path, work: Path, index: int) -> list[str]:
    os.chdir(folder)  # the plan's paths may be relative
    return run_by_index(step, work, index, lambda _: None)


def _result(ray: Any, reference: Any, index: int) -> list[str]:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        # What the unit raised, without the worker's traceback around it
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise ValueError(f"unit {index} could not be run, tried four times: {str(error).splitlines()[0]}") from error


def _import_ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ValueError("the engine ray needs Ray: pip install ray==2.60.0 on every machine") from error


@contextmanager
def _connected(ray: Any) -> Iterator[None]:
    """A connection for this call, unless the caller has one. When it ends, what still runs ends too."""
    if ray.is_initialized():
        yield
        return
    ray.init(runtime_env={"env_vars": ONE_THREAD}, log_to_driver=False, include_dashboard=False)
    try:
        yield
    finally:
        ray.shutdown()
