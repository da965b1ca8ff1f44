"""Run a step for many units as tasks of a Ray cluster, whose machines see inputs and work folder at the same paths.

If a worker or its machine dies, Ray runs the unit again on another. `ray.init()` finds the cluster of RAY_ADDRESS or
the one started on this machine; if there is none, it starts one with this machine's cores.
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
from corpus.reading.streams import OnBytes


def run_units(
    step: Step, plan: Plan, work: Path, indexes: Iterable[int], num_workers: int | None, on_bytes: OnBytes
) -> None:
    """Run a step for every index on the cluster, as `workers.run_units` does on one machine.

    Args:
        num_workers: units at the same time; by default as many as the cluster has cores.

    Raises ValueError if Ray is not installed, and for a unit whose workers died four times.
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
        # The unit's own error, without the worker's traceback around it
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
    """Connect to Ray for this call, unless the caller is connected. Leaving ends tasks that still run."""
    if ray.is_initialized():
        yield
        return
    ray.init(runtime_env={"env_vars": ONE_THREAD}, log_to_driver=False, include_dashboard=False)
    try:
        yield
    finally:
        ray.shutdown()
