"""One rank of a job from its start to its exit code: the common part of launch/gd.py and launch/td.py.

Slow imports are inside functions, so that signals are handled from the start.
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
from launch.command_line.terminal import accept_any_terminal
from launch.job.messages import mute_transformers, tag_messages
from launch.job.threads import share_cores
from launch.job.world import World, read_world
from pretrain.progress import Progress, say
from pretrain.ranks.stopping import StopRequest, ignore_stop_requests

REFUSED, STOPPED, PEER_LOST = 2, 75, 76
# Launchers end every rank when the first one exits, so a rank waits while another may still be printing the reason.
SPEAK_SECONDS = 3
OnLost = Callable[[Exception], None]  # called in another thread when a rank is lost
Train = Callable[[StopRequest, OnLost], int]  # returns the StopReason, 0 if it reached the end
Prepare = Callable[[argparse.Namespace, Path, World], Train]
AddFlags = Callable[[argparse.ArgumentParser], None]


def parse_arguments(about: str, add_flags: AddFlags = lambda parser: None) -> argparse.Namespace:
    """Parse the command line. `--local_rank`, which some launchers add, is ignored: LOCAL_RANK is the same."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, help="configuration file (to resume: that of the run folder)")
    parser.add_argument("--run", type=Path, help="run folder (runs/<name of the configuration file>)")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="overrides",
                        help="keys of the configuration to change, for example training.total_steps=1000")  # fmt: skip
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    add_flags(parser)
    return parser.parse_args()


def find_run(arguments: argparse.Namespace) -> Path:
    """Return the run folder. Without --config, set `arguments.config` to the one in the run folder.

    Raise ValueError if there is neither.
    """
    if arguments.config:
        return arguments.run or Path("runs") / arguments.config.stem
    if not arguments.run:
        raise ValueError("give --config FILE to start a run, or --run FOLDER to resume one")
    arguments.config = arguments.run / "config.json"
    if not arguments.config.is_file():
        raise ValueError(f"--run {arguments.run}: no run has started there; give --config too")
    return arguments.run


def leave_lost(world: World, error: Exception) -> int:
    """Report that another rank or the corpus is lost, wait for other ranks to report too, and return the exit code."""
    say(f"[rank {world.rank}] stopped: {error}; run again to resume from the newest checkpoint")
    time.sleep(SPEAK_SECONDS)
    return PEER_LOST


def refuse(world: World, error: ValueError) -> int:
    """Report an error once per host, as a file may be missing on one of them, and return the exit code."""
    if world.local_rank == 0:
        say(f"error: {error}" if world.rank == 0 else f"[rank {world.rank}] error: {error}")
    else:
        time.sleep(SPEAK_SECONDS)
    return REFUSED


class Unbroken:
    """stdout or stderr that survives the loss of its reader, such as a launcher or ssh: output is then dropped."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text if possible; return its length in any case."""
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush if possible."""
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def main(about: str, prepare: Prepare, add_flags: AddFlags = lambda parser: None) -> None:
    """Handle signals from the start, determine the rank, run the job and exit with its exit code.

    Args:
        add_flags: adds the job's own flags to those that all jobs have.
    """
    accept_any_terminal()
    arguments = parse_arguments(about, add_flags)
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
    os._exit(code)  # without waiting for threads that read data or for process groups of lost ranks


def run_job(prepare: Prepare, arguments: argparse.Namespace, world: World, stop: StopRequest) -> int:
    """Call `prepare`, then train; report errors and return the exit code."""
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
    except StoreLost as error:  # the corpus of a run that has started was there before, and may come back
        return leave_lost(world, error) if is_under_way(run) else refuse(world, error)
    except ValueError as error:
        return refuse(world, error)
    try:
        reason = train(stop, lambda error: os._exit(leave_lost(world, error)))
    except (PeerLost, StoreLost, DataLate) as error:
        return leave_lost(world, error)
    except ValueError as error:
        say(f"[rank {world.rank}] stopped: {error}")
        return REFUSED
    if reason and world.rank == 0:
        say(again_line(sys.argv[0], run, world))
    return STOPPED if reason else 0


def again_line(script: str, run: Path, world: World) -> str:
    """Return the line with the command that resumes a stopped run, as far as the launcher's flags are known."""
    if not world.address:
        return next_line("python", script, "--run", run)
    if world.launcher_generations == 2 and os.environ.get("CROSS_SIZE") == "1":  # deepspeed on one host
        return next_line("deepspeed", "--num_gpus", str(world.size), script, "--run", run)
    return f"next: the same command again, or its launcher with {shlex.join([script, '--run', str(run)])}"
