"""Distillation from a script or a notebook: the main job in this process, without a launcher."""

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from launch.distillation.checks import check_finished, check_input
from launch.distillation.config import RunConfig, read_run_config
from launch.distillation.training import distil
from launch.job.run_folder import read_done
from pretrain.ranks.stopping import Stop, StopReason


def distil_alone(config: RunConfig | Path | str | Mapping[str, Any], run: Path | str) -> StopReason:
    """Train the students of a configuration in this process, or continue a run that was stopped.

    One process is one rank: for several GPUs start `launch/gd.py` by a launcher. An interrupt (Ctrl-C, or a notebook's
    stop button) ends training after the step it is in, with a checkpoint; call again to continue.

    Args:
        config: a RunConfig, the path of a JSON file, or the JSON object itself as a dict.
        run: the run folder. Read by `launch.publishing.student_folder.publish` when the run is done.

    Returns:
        Why training stopped before its last step, or `StopReason.NONE` if it is done.

    Raises:
        ValueError: for everything that `launch/gd.py` refuses, with the same messages.
    """
    decoded, folder = _decode(config), Path(run)
    job = check_input(decoded, folder, world_size=1)
    if read_done(folder):
        check_finished(decoded, folder)
        return StopReason.NONE
    with _stopped_by_interrupt() as stop:
        return distil(decoded, job, folder, stop, on_lost=lambda error: None)


def _decode(config: RunConfig | Path | str | Mapping[str, Any]) -> RunConfig:
    if isinstance(config, RunConfig):
        return config
    return read_run_config(config if isinstance(config, Mapping) else Path(config))


@contextmanager
def _stopped_by_interrupt() -> Iterator[Stop]:
    """A Stop that an interrupt requests; the process's own handler is back when the block ends."""
    stop = Stop()

    def request(*_: object) -> None:
        stop.reason = StopReason.SIGINT

    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may handle signals
        return
    before = signal.signal(signal.SIGINT, request)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
