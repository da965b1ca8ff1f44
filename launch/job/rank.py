"""One rank of a job from its start to its exit code: what launch/gd.py and launch/td.py have in common.

Light imports only: what takes seconds comes after signals are noted.
"""

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from launch.command_line.next_command import next_line
from launch.job.messages import mute_transformers, tag_messages
from launch.job.threads import share_cores
from launch.job.world import World, read_world
from pretrain.progress import Progress, say
from pretrain.ranks.stopping import StopRequest, ignore_stop_requests

REFUSED, STOPPED, PEER_LOST = 2, 75, 76
# A launcher ends every rank when the first one goes: let the one that knows more finish its words, and be the first.
SPEAK_SECONDS = 3
OnLost = Callable[[Exception], None]  # told, in a thread, that another rank is gone
Train = Callable[[StopRequest, OnLost], int]  # gives the number of what stopped it before its end, or 0
Prepare = Callable[[argparse.Namespace, Path, World], Train]


def parse_arguments(about: str) -> argparse.Namespace:
    """The command line; `--local_rank` is what the launcher prepends (LOCAL_RANK says the same)."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, help="that of the run folder unless given, for a run that was begun")
    parser.add_argument("--run", type=Path, help="run folder; runs/<config's name> unless given")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def find_run(arguments: argparse.Namespace) -> Path:
    """The run folder; where no config was given, `arguments.config` becomes the one that the run was begun with.

    ValueError where there is neither.
    """
    if arguments.config:
        return arguments.run or Path("runs") / arguments.config.stem
    if not arguments.run:
        raise ValueError("give --config FILE, or --run FOLDER to go on with a run that was begun")
    arguments.config = arguments.run / "config.json"
    if not arguments.config.is_file():
        raise ValueError(f"--run {arguments.run}: no run was begun there; give --config too")
    return arguments.run


def leave_lost(world: World, error: Exception) -> int:
    """Say that another rank or the corpus is gone, and give all who can say so the time to."""
    say(f"[rank {world.rank}] stopped: {error}; run again to go on from the newest checkpoint")
    time.sleep(SPEAK_SECONDS)
    return PEER_LOST


def refuse(world: World, error: ValueError) -> int:
    """Say why nothing begins, once a host: a file may be missing on one of them."""
    if world.local_rank == 0:
        say(f"error: {error}" if world.rank == 0 else f"[rank {world.rank}] error: {error}")
    else:
        time.sleep(SPEAK_SECONDS)
    return REFUSED


class Unbroken:
    """stdout or stderr that outlives its reader, a launcher or ssh say: what nobody can read any more is dropped."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """The length of the text, as if it had been written."""
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def main(about: str, prepare: Prepare) -> None:
    """Note signals from the first moment, find the rank, run the job and leave with its exit code."""
    arguments = parse_arguments(about)
    share_cores()
    sys.stdout, sys.stderr = Unbroken(sys.stdout), Unbroken(sys.stderr)
    try:
        world = read_world(os.environ)
    except ValueError as error:
        say(f"error: {error}")
        sys.exit(REFUSED)
    world.export()
    tag_messages(world.rank)
    stop = StopRequest(world.launcher_generations, None if world.rank else lambda text: say(f"[rank 0] {text}"))
    code = run_job(prepare, arguments, world, stop)
    ignore_stop_requests()
    sys.stdout.flush()
    os._exit(code)  # neither threads that wait for data nor process groups of lost peers hold it up


def run_job(prepare: Prepare, arguments: argparse.Namespace, world: World, stop: StopRequest) -> int:
    """Refuse where `prepare` does, or train what it gives; the exit code of what came of it."""
    with Progress("loading the libraries"):
        from corpus.progress import show_progress_with
        from corpus.shards.store import StoreLost
        from launch.job.run_folder import is_under_way
        from pretrain.device import check_accelerator
        from pretrain.ranks.peers import PeerLost
        from pretrain.training.trainer import DataLate

        mute_transformers()
    show_progress_with(Progress)
    try:
        run = find_run(arguments)
        check_accelerator()
        train = prepare(arguments, run, world)
    except StoreLost as error:  # what a run was begun with was there, and may come back
        return leave_lost(world, error) if is_under_way(run) else refuse(world, error)
    except ValueError as error:
        return refuse(world, error)
    try:
        number = train(stop, lambda error: os._exit(leave_lost(world, error)))
    except (PeerLost, StoreLost, DataLate) as error:
        return leave_lost(world, error)
    except ValueError as error:
        say(f"[rank {world.rank}] stopped: {error}")
        return REFUSED
    if number and world.rank == 0:
        say(again_line(sys.argv[0], run, world))
    return STOPPED if number else 0


def again_line(script: str, run: Path, world: World) -> str:
    """What goes on with a run that was stopped, as far as the launcher's own flags can be known."""
    if not world.address:
        return next_line("python", script, "--run", run)
    if world.launcher_generations == 2 and os.environ.get("CROSS_SIZE") == "1":  # deepspeed on one host
        return next_line("deepspeed", "--num_gpus", str(world.size), script, "--run", run)
    return f"next: the same command again, or its launcher with {shlex.join([script, '--run', str(run)])}"
