"""The worker processes of an evaluation on this machine, which share its cells."""

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
_WAIT_SECONDS = 0.1  # between checks for ended workers and requests to stop
_COUNT_SECONDS = 2.0  # between counts of finished cells, which read all of them
_LAST_LINES = 12  # of a failed worker's log


def run_workers(evaluation: Evaluation, output: Path, num_workers: int | None, stop: StopRequest) -> int:
    """Run workers until every cell is finished or cannot be; return the exit code.

    Raise ValueError for fewer than one worker, and for several if the file system has no locks.
    """
    num_workers = max(1, torch.cuda.device_count()) if num_workers is None else num_workers
    if num_workers < 1:
        raise ValueError(f"--workers: must be at least 1, got {num_workers}")
    if num_made(evaluation, output) == num_cells(evaluation):
        return 0
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
    if num_workers > 1:
        _check_locks(output, num_workers)
    host = socket.gethostname()  # other hosts may share the folder
    logs = [output / f"worker-{host}-{index}.log" for index in range(num_workers)]
    precision = evaluation.config.deepspeed.torch_autocast  # the same for all workers
    workers = {log: _start(index, num_workers, log, precision) for index, log in enumerate(logs)}
    codes = _watch(workers, evaluation, output, stop)
    if stop.reason or STOPPED in codes:
        say("stopped; run again to resume")
        return STOPPED
    return FAILED if any(codes) else 0


def _check_locks(output: Path, num_workers: int) -> None:
    with (output / "lock").open("a") as file:
        try:
            try_lock(file)
        except OSError as error:
            reason = f"has no locks ({error.strerror}), so each of {num_workers} workers would do all runs"
            raise ValueError(f"{output}: its file system {reason}; give --workers 1, or another --output") from error


def _start(index: int, num_workers: int, log: Path, precision: AutocastConfig) -> subprocess.Popen[bytes]:
    """Start this process's command as a worker with its share of the machine."""
    # Without the ranks of this process's launcher: a worker is a job of one rank.
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
    """Show the number of finished cells and report failed workers until all have ended; return their exit codes.

    Others continue if one fails: its cells are made when the command is run again.
    """
    running, stopping, counted = dict(workers), False, time.monotonic()
    made = num_made(evaluation, output)
    with Progress("fine-tuning", num_cells(evaluation), "runs", initial=made) as progress:
        while running:
            time.sleep(_WAIT_SECONDS)
            if time.monotonic() - counted > _COUNT_SECONDS:
                progress.update(num_made(evaluation, output) - progress.done)
                counted = time.monotonic()
            for log in [log for log, worker in running.items() if worker.poll() is not None]:
                code = running.pop(log).returncode
                if code not in (0, STOPPED) and not stopping:
                    say(_failure(log, code))
            if stop.reason and not stopping:
                stopping = True
                for worker in running.values():
                    worker.terminate()
        progress.update(num_made(evaluation, output) - progress.done)
    return [worker.returncode for worker in workers.values()]


def _failure(log: Path, code: int) -> str:
    tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:])
    return f"{log}: the worker failed with exit code {code}:\n{tail}"
