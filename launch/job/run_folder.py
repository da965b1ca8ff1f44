"""The folder of a job: used by one job at a time, the same on every rank, and marked when the job is done."""

import json
import re
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO, TypeVar

from pydantic import BaseModel, PositiveInt, ValidationError

from launch.command_line.config_file import changed_keys
from pretrain.checkpoints.checkpoint import TrainingState
from pretrain.durable import try_lock, write_durably
from pretrain.progress import Progress
from pretrain.ranks.together import on_rank_zero, raise_together
from pretrain.settings import Settings

AnyConfig = TypeVar("AnyConfig", bound=BaseModel)


# Keys that may differ between ranks: paths on their hosts, whose contents are compared instead.
_PATHS = re.compile(
    r"about|corpus\.(manifest|cache_folder|cache_gigabytes)|teacher\.(path|vectors)|student|(probe\.)?task\.(train|dev)|"
    r"probe\.heldout|stages\.ged\.config|students\.\d+\.init\.student"
)


_held: dict[Path, TextIO] = {}  # locked files by run folder, released when the process ends


def keep_kernels(config: AnyConfig, run: Path) -> AnyConfig:
    """Return the configuration with the kernels that the run started with wherever it says "auto".

    Another kernel computes the same loss with other rounding. Every rank must call it.
    """

    def fill(now: Any, before: Any) -> Any:
        if isinstance(now, dict) and isinstance(before, dict):
            filled = {key: fill(value, before.get(key)) for key, value in now.items()}
            return filled | ({"kernel": before["kernel"]} if now.get("kernel") == "auto" and "kernel" in before else {})
        if isinstance(now, list) and isinstance(before, list) and len(now) == len(before):
            return [fill(one, other) for one, other in zip(now, before, strict=True)]
        return now

    path = run / "config.json"
    before = on_rank_zero(lambda: json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {})
    return type(config).model_validate_json(json.dumps(fill(config.model_dump(mode="json"), before)))


def check_alike(config: dict[str, Any], inputs: dict[str, Any]) -> None:
    """Raise ValueError on every rank if the configuration or the inputs of one differ from rank 0's.

    That happens if the command is typed on each host, or a host has an older copy of the files. Paths may differ.
    """
    first_config, first_inputs = on_rank_zero(lambda: (config, inputs))
    changed = [key for key in changed_keys(first_config, config) if not _PATHS.fullmatch(key)]
    changed += changed_keys(first_inputs, inputs)
    raise_together(f"differs from rank 0 in {', '.join(changed)}" if changed else None)


def is_under_way(run: Path) -> bool:
    """Return whether a run has started in this folder and is not done."""
    return (run / "config.json").is_file() and not (run / "done.json").is_file()


@Progress("waiting for another job to leave the run folder")
def hold_run_folder(run: Path, wait_seconds: float = 30.0) -> None:
    """Lock the run folder for this process until it ends, waiting for a job that is about to exit.

    Raise ValueError if another job keeps it, such as one without launcher, or the same command started twice.
    """
    run.mkdir(parents=True, exist_ok=True)
    if (held := run.resolve()) in _held:
        return
    file = (run / "lock").open("a")
    end = time.monotonic() + wait_seconds
    try:
        while not try_lock(file):
            if time.monotonic() > end:
                file.close()
                raise ValueError(f"{run}: another job uses this folder; stop it, or give another --run folder")
            time.sleep(0.2)
    except OSError as error:
        reason = f"its file system has no locks ({error.strerror})"
        warnings.warn(f"{run}: {reason}; make sure that only one job uses this folder", stacklevel=2)
    _held[held] = file


@Progress("waiting for every host to see the run folder")
def check_shared(path: Path, wait_seconds: float = 60.0) -> None:
    """Wait until every rank sees a file that rank 0 wrote. Raise ValueError on every rank if one never does."""
    end = time.monotonic() + wait_seconds
    while not path.is_file() and time.monotonic() < end:
        time.sleep(0.2)
    seen = path.is_file()
    message = f"{path}: written by rank 0, but does not exist on this host; the run folder must be shared by all hosts"
    raise_together(None if seen else message)


class Done(Settings):
    """done.json: written last, the only sign that a run is complete."""

    step: PositiveInt
    tokens: PositiveInt
    seconds: float
    finished: datetime
    reason: str


def write_done(run: Path, state: TrainingState) -> Done:
    """Write done.json: the last checkpoint is the final one."""
    done = Done(
        step=state.step,
        tokens=state.tokens,
        seconds=state.seconds,
        finished=datetime.now(UTC).replace(microsecond=0),
        reason="trained to training.total_steps",
    )
    write_durably(run / "done.json", done.model_dump_json(indent=2))
    return done


def read_done(run: Path) -> Done | None:
    """Read done.json; return None if the run is not complete. Raise ValueError if the file cannot be read."""
    path = run / "done.json"
    if not path.is_file():
        return None
    try:
        return Done.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path}: not written by a complete run; remove it to continue the run") from error
