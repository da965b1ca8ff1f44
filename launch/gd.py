"""General distillation: one frozen teacher or none, one or several students, one DeepSpeed engine each.

    deepspeed launch/gd.py --config configs/4l312d.json [--run runs/mine] [--set teacher.path=... corpus.seed=3]

The same under torchrun, mpirun, srun or none of them. Continues a run that was stopped. SIGTERM, SIGINT or SIGUSR1 to
any rank stops all of them at one step, with a checkpoint; a second SIGTERM or SIGINT ends a rank at once.
The run folder must lie where all hosts see it. `done.json` in it is the one sign that a run is complete.

Exit codes of every rank:
    0   done: trained to the last step, now or before
    1   anything that is not foreseen
    2   the input was refused, or the run cannot go on as it is (the message says why)
    75  stopped before the end with a checkpoint: run again to go on
    76  another rank or host was lost: run again to go on from the newest checkpoint
"""

import argparse
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

# The deepspeed launcher puts only launch/ on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# Light imports only: what takes seconds comes after signals are noted.
from launch.rank_log import tag_messages
from launch.world import World, read_world
from pretrain.stopping import StopRequest, ignore_stop_requests

REFUSED, STOPPED, PEER_LOST = 2, 75, 76
# A launcher ends every rank when the first one goes: let the one that knows more finish its words, and be the first.
SPEAK_SECONDS = 3


def parse_arguments() -> argparse.Namespace:
    """The command line; `--local_rank` is what the launcher prepends (LOCAL_RANK says the same)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--run", type=Path, help="run folder; runs/<config's name> unless given")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def run_job(arguments: argparse.Namespace, world: World, stop: StopRequest) -> int:
    """Refuse in the first second, or train; gives the exit code."""
    from transformers.utils import logging as transformers_logging

    from launch.distillation import check_input, distil
    from launch.run_config import read_run_config
    from launch.run_folder import read_done, summary
    from pretrain.peers import PeerLost

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # the teacher comes without its head: that is meant
    run = arguments.run or Path("runs") / arguments.config.stem
    try:
        config = read_run_config(arguments.config, arguments.overrides)
        manifest = check_input(config, run, world.size)
        done = read_done(run)
    except ValueError as error:
        return refuse(world, error)
    if done:
        if world.rank == 0:
            print(
                f"{summary(run, config, done)}\ndone already, {done.finished:%Y-%m-%d %H:%M} UTC: {run / 'done.json'}",
                flush=True,
            )
        return 0
    try:
        number = distil(config, manifest, run, stop, lambda error: os._exit(leave_lost(world, error)))
    except ValueError as error:
        say(f"[rank {world.rank}] stopped: {error}")
        return REFUSED
    except PeerLost as error:
        return leave_lost(world, error)
    return STOPPED if number else 0


def leave_lost(world: World, error: Exception) -> int:
    """Say that another rank is gone, and give all who can say so the time to."""
    say(f"[rank {world.rank}] stopped: {error}; run again to go on from the newest checkpoint")
    time.sleep(SPEAK_SECONDS)
    return PEER_LOST


def refuse(world: World, error: ValueError) -> int:
    """Say once why nothing begins."""
    if world.rank == 0:
        say(f"refused: {error}")
    else:
        time.sleep(SPEAK_SECONDS)
    return REFUSED


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


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


def main() -> None:
    """Note signals from the first moment, find the rank, and leave with what every rank says."""
    arguments = parse_arguments()
    sys.stdout, sys.stderr = Unbroken(sys.stdout), Unbroken(sys.stderr)
    try:
        world = read_world(os.environ)
    except ValueError as error:
        say(f"refused: {error}")
        sys.exit(REFUSED)
    world.export()
    tag_messages(world.rank)
    stop = StopRequest(world.launcher_generations)
    code = run_job(arguments, world, stop)
    ignore_stop_requests()
    sys.stdout.flush()
    os._exit(code)  # neither threads that wait for data nor process groups of lost peers hold it up


if __name__ == "__main__":
    main()
