"""Run a step for many units on this machine: worker processes, each of which takes one unit after another.

Batch schedulers (Slurm and others) do not use this: their array jobs call the command with --read-unit and
--encode-unit.
"""

import contextlib
import multiprocessing
import os
import signal
import warnings
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from corpus.building.plan import Plan, load_plan
from corpus.reading.streams import OnBytes

# There is a process for each core, so libraries must not start a thread for each core too.
ONE_THREAD = {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

IMPORTS = ("transformers.models.auto.tokenization_auto",)  # the slowest import of a worker

Step = Callable[[Plan, Path, int, OnBytes], Any]


def num_usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def run_units(
    step: Step, plan: Plan, work: Path, indexes: Iterable[int], num_workers: int | None, on_bytes: OnBytes
) -> None:
    """Run a step once for every index, in any order. Errors and warnings of the step are raised and repeated here.

    Args:
        num_workers: processes; by default one for each core.
        on_bytes: called with the bytes done, to show progress.

    Raises ValueError if a worker is killed; finished units are kept.
    """
    todo = list(indexes)
    num_workers = min(num_workers or num_usable_cores(), len(todo))
    if num_workers <= 1:
        for index in todo:
            step(plan, work, index, on_bytes)
    else:
        _run_in_processes(step, work, todo, num_workers, on_bytes)


def _run_in_processes(step: Step, work: Path, todo: list[int], num_workers: int, on_bytes: OnBytes) -> None:
    """Give each process one index at a time through a pipe. multiprocessing.Pool may hang when a process is killed."""
    # The fork server has no threads, whose locks a fork would never release, and imports once what takes seconds.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTS))
    waiting = iter(todo)
    workers: dict[Connection, BaseProcess] = {}
    try:
        for _ in range(num_workers):
            ours, theirs = context.Pipe()
            workers[ours] = context.Process(target=_serve, args=(theirs, step, work), daemon=True)
            workers[ours].start()
            theirs.close()
            ours.send(next(waiting))
        while workers:
            for connection in wait_for(list(workers)):
                assert isinstance(connection, Connection)
                if _receive(connection, on_bytes):
                    connection.send(index := next(waiting, None))
                    if index is None:
                        workers.pop(connection).join()
    finally:
        for process in workers.values():
            process.kill()
            process.join()


def _receive(connection: Connection, on_bytes: OnBytes) -> bool:
    """Handle a worker's message: bytes read, an error, or a unit's warnings, which end it. Return whether it ended."""
    try:
        message = connection.recv()
    except (EOFError, OSError) as error:
        raise ValueError("a worker was killed, probably for lack of memory; use fewer --workers") from error
    if isinstance(message, Exception):
        raise message
    if isinstance(message, int):
        on_bytes(message)
        return False
    _warn(message)
    return True


def _warn(messages: list[str]) -> None:
    for message in messages:
        warnings.warn(message, stacklevel=2)


def _serve(connection: Connection, step: Step, work: Path) -> None:
    """Run in a worker: a step for each index received, until None comes or the parent dies and the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.environ |= ONE_THREAD
    with contextlib.suppress(EOFError, BrokenPipeError):
        while (index := connection.recv()) is not None:
            try:
                connection.send(run_by_index(step, work, index, connection.send))
            except BrokenPipeError:
                raise
            except Exception as error:  # of any kind: the parent raises it
                connection.send(error)


def run_by_index(step: Step, work: Path, index: int, on_bytes: OnBytes) -> list[str]:
    """Run a step with the plan loaded from the work folder; return the warnings it gave."""
    plan = load_plan(work, [index])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        step(plan, work, index, on_bytes)
    return [str(warning.message) for warning in caught]
