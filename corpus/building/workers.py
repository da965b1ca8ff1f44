"""What runs units on this machine: processes, each of which calls a step for one index after another.

A batch scheduler (Slurm and others) needs nothing here: its array calls the command with --read-unit and --encode-unit.
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
from corpus.reading.parts import OnBytes

# A process a core: libraries that start a thread for each core would only fight.
ONE_THREAD = {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

IMPORTS = ("transformers.models.auto.tokenization_auto",)  # most of what a worker imports

Step = Callable[[Plan, Path, int, OnBytes], Any]


def num_usable_cores() -> int:
    return len(os.sched_getaffinity(0))


def run_units(
    step: Step, plan: Plan, work: Path, indexes: Iterable[int], num_workers: int | None, on_bytes: OnBytes
) -> None:
    """Runs a step for every index, each once, in any order. What a unit raises or warns of is raised or warned here.

    All cores work unless `num_workers` says else. Raises ValueError when a worker dies; what is done stays done.
    """
    todo = list(indexes)
    num_workers = min(num_workers or num_usable_cores(), len(todo))
    if num_workers <= 1:
        for index in todo:
            step(plan, work, index, on_bytes)
    else:
        _run_in_processes(step, work, todo, num_workers, on_bytes)


def _run_in_processes(step: Step, work: Path, todo: list[int], num_workers: int, on_bytes: OnBytes) -> None:
    """Hands out an index at a time over a pipe to each process. (A pool hangs now and then when one is killed.)"""
    # Forked from a process without threads, whose locks would be held for ever, that imports once what takes seconds.
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
                if _hear(connection, on_bytes):
                    connection.send(index := next(waiting, None))
                    if index is None:
                        workers.pop(connection).join()
    finally:
        for process in workers.values():
            process.kill()
            process.join()


def _hear(connection: Connection, on_bytes: OnBytes) -> bool:
    """Takes a worker's message, which is bytes read, an error, or the warnings of a unit: whether that is done."""
    try:
        message = connection.recv()
    except (EOFError, OSError) as error:
        raise ValueError("a worker was killed, for want of memory perhaps; fewer workers need less") from error
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
    """A worker's life: it ends when told, or with the pipe when its parent dies."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.environ |= ONE_THREAD
    with contextlib.suppress(EOFError, BrokenPipeError):
        while (index := connection.recv()) is not None:
            try:
                connection.send(run_by_index(step, work, index, connection.send))
            except BrokenPipeError:
                raise
            except Exception as error:  # whatever it is, the parent raises it
                connection.send(error)


def run_by_index(step: Step, work: Path, index: int, on_bytes: OnBytes) -> list[str]:
    """Runs a step in a process that knows only the work folder; the warnings it gave."""
    plan = load_plan(work, [index])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        step(plan, work, index, on_bytes)
    return [str(warning.message) for warning in caught]
