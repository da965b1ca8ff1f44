"""What runs units: processes of this machine, or a Ray cluster. Both only call a step for each index.

A batch scheduler (Slurm and others) needs nothing here: its array calls the command with --read-unit and --encode-unit.
"""

import functools
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any, Literal

from corpus.plan import Plan, load_plan

EngineName = Literal["local", "ray"]
OnBytes = Callable[[int], Any]
Step = Callable[[Plan, Path, int, OnBytes], Any]
_POLL_SECONDS = 0.5
_progress: "Synchronized[int]"


def num_usable_cores() -> int:
    return len(os.sched_getaffinity(0))


def run_units(
    engine: EngineName, step: Step, plan: Plan, work: Path, indexes: Iterable[int], num_workers: int, on_bytes: OnBytes
) -> None:
    """Runs a step for every index, each once, in any order. What a unit raises or warns of is raised or warned here.

    Raises ValueError when a worker dies; the units that are done stay done.
    """
    todo = list(indexes)
    if engine == "ray":
        _run_on_ray(step, plan, work, todo, on_bytes)
    elif min(num_workers, len(todo)) <= 1:
        for index in todo:
            step(plan, work, index, on_bytes)
    else:
        _run_in_processes(step, work, todo, min(num_workers, len(todo)), on_bytes)


def _run_in_processes(step: Step, work: Path, todo: list[int], num_workers: int, on_bytes: OnBytes) -> None:
    context = multiprocessing.get_context("spawn")  # a fork would copy threads' locks, and hang on one now and then
    progress = context.Value("q", 0)
    seen = 0
    with ProcessPoolExecutor(num_workers, context, _start_worker, (progress,)) as pool:
        try:
            pending = {pool.submit(_run_in_worker, step, work, index) for index in todo}
            while pending:
                done, pending = wait(pending, _POLL_SECONDS, FIRST_COMPLETED)
                on_bytes(progress.value - seen)
                seen = progress.value
                for future in done:
                    _warn(future.result())
        except BrokenProcessPool as error:
            raise ValueError("a worker was killed, for want of memory perhaps; fewer workers need less") from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _warn(messages: list[str]) -> None:
    for message in messages:
        warnings.warn(message, stacklevel=2)


def _start_worker(progress: "Synchronized[int]") -> None:
    global _progress
    _progress = progress
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # A process a core: libraries that start a thread for each core would only fight.
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


def _count(num_bytes: int) -> None:
    with _progress.get_lock():
        _progress.value += num_bytes


def _run_in_worker(step: Step, work: Path, index: int) -> list[str]:
    return run_by_index(step, work, index, _count)


def run_by_index(step: Step, work: Path, index: int, on_bytes: OnBytes) -> list[str]:
    """Runs a step in a process that knows only the work folder; the warnings it gave. ValueError for no such unit."""
    plan = _plan(work, (work / "plan.json").stat().st_mtime_ns)
    if not 0 <= index < len(plan.units):
        raise ValueError(f"there is no unit {index}; the plan has 0 to {len(plan.units) - 1}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        step(plan, work, index, on_bytes)
    return [str(warning.message) for warning in caught]


@functools.lru_cache(maxsize=1)
def _plan(work: Path, mtime_ns: int) -> Plan:
    return load_plan(work)


def _run_on_ray(step: Step, plan: Plan, work: Path, todo: list[int], on_bytes: OnBytes) -> None:
    try:
        import ray
    except ImportError as error:
        raise ValueError("the engine ray needs the package ray: pip install ray") from error
    if not ray.is_initialized():
        # Workers import this code from where it lies here: the repository, as the output, is on a shared disk.
        root = str(Path(__file__).resolve().parents[1])
        ray.init(runtime_env={"env_vars": {"PYTHONPATH": root}}, log_to_driver=False)
    # Ray runs a task again when its worker dies; a task that raises is not tried again.
    task = ray.remote(num_cpus=1, max_retries=-1)(run_by_index)
    pending = {task.remote(step, work.resolve(), index, _ignore): index for index in todo}
    while pending:
        (done,), _ = ray.wait(list(pending), num_returns=1)
        try:
            _warn(ray.get(done))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        on_bytes(plan.units[pending.pop(done)].num_bytes)


def _ignore(num_bytes: int) -> None:
    pass
