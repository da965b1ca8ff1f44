"""Processes that share the cells of an evaluation on this machine."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from launch.evaluation.cells import num_cells, num_made
from launch.evaluation.config import Evaluation
from launch.job.rank import STOPPED
from launch.job.threads import share_cores
from launch.job.world import GENERIC
from pretrain.durable import try_lock, writing
from pretrain.engines.deepspeed_config import AutocastConfig
from pretrain.progress import Progress, say
from pretrain.ranks.stopping import StopRequest

FAILED = 1
_WAIT_SECONDS = 0.1  # for a worker that ends, or a request to stop
_LOOK_SECONDS = 2.0  # at the cells: a look reads every one that is made
_LAST_LINES = 12


def run_workers(evaluation: Evaluation, output: Path, num_workers: int | None, stop: StopRequest) -> int:
    """Have every cell made; 0, or the exit code of what ended it early.

    ValueError for no workers, and for several where they cannot tell which cells are whose.
    """
    num_workers = max(1, torch.cuda.device_count()) if num_workers is None else num_workers
    if num_workers < 1:
        raise ValueError(f"--workers: want at least 1, got {num_workers}")
    if num_made(evaluation, output) == num_cells(evaluation):
        return 0
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
    if num_workers > 1:
        _check_locks(output, num_workers)
    host = socket.gethostname()  # others may share the folder
    logs = [output / f"worker-{host}-{index}.log" for index in range(num_workers)]
    precision = evaluation.config.deepspeed.torch_autocast  # settled once, for all workers
    workers = {log: _start(index, num_workers, log, precision) for index, log in enumerate(logs)}
    codes = _watch(workers, evaluation, output, stop)
    if stop.reason or STOPPED in codes:
        say("stopped; run again to go on")
        return STOPPED
    return FAILED if any(codes) else 0


def _check_locks(output: Path, num_workers: int) -> None:
    with (output / "lock").open("a") as file:
        try:
            try_lock(file)
        except OSError as error:
            reason = f"has no locks ({error.strerror}), so that each of {num_workers} workers would make every cell"
            raise ValueError(f"{output}: its file system {reason}; give --workers 1, or another --output") from error


def _start(index: int, num_workers: int, log: Path, precision: AutocastConfig) -> subprocess.Popen[bytes]:
    """The command that this process is, as a worker, with its share of the machine."""
    # A world of its own, whatever launcher this process is in.
    environment = {name: value for name, value in os.environ.items() if name not in GENERIC}
    if num_gpus := torch.cuda.device_count():
        allowed = environment.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(num_gpus)))
        environment["CUDA_VISIBLE_DEVICES"] = allowed.split(",")[index % num_gpus]
    elif "OMP_NUM_THREADS" not in environment:
        environment["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // num_workers))
    share_cores(environment)
    with log.open("wb") as file:
        settled = ["--set", f"deepspeed.torch_autocast={precision.model_dump_json()}"]
        return subprocess.Popen(
            [sys.executable, *sys.argv, "--worker", *settled], stdout=file, stderr=file, env=environment
        )


def _watch(
    workers: Mapping[Path, subprocess.Popen[bytes]], evaluation: Evaluation, output: Path, stop: StopRequest
) -> list[int]:
    """Show how many cells are made until all workers are gone, and at once which failed; gives their exit codes.

    One that fails does not end the others: what it leaves is made when the command is run again.
    """
    running, told, looked = dict(workers), False, time.monotonic()
    made = num_made(evaluation, output)
    with Progress("fine-tuning", num_cells(evaluation), "cells", initial=made) as progress:
        while running:
            time.sleep(_WAIT_SECONDS)
            if time.monotonic() - looked > _LOOK_SECONDS:
                progress.update(num_made(evaluation, output) - progress.done)
                looked = time.monotonic()
            for log in [log for log, worker in running.items() if worker.poll() is not None]:
                code = running.pop(log).returncode
                if code not in (0, STOPPED) and not told:
                    say(_failure(log, code))
            if stop.reason and not told:
                told = True
                for worker in running.values():
                    worker.terminate()
        progress.update(num_made(evaluation, output) - progress.done)
    return [worker.returncode for worker in workers.values()]


def _failure(log: Path, code: int) -> str:
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-_LAST_LINES:])
    return f"{log}: the worker failed with exit code {code}:\n{tail}"
