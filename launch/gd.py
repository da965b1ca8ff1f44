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
    76  another rank or host was lost, or the corpus of a run that was begun is out of reach: run again to go on from
        the newest checkpoint
"""

import argparse
import os
import sys
from pathlib import Path

# The deepspeed launcher puts only launch/ on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from launch.rank import REFUSED, STOPPED, lead, leave_lost, refuse, say
from launch.rank_log import mute_transformers
from launch.world import World
from pretrain.stopping import StopRequest


def run_job(arguments: argparse.Namespace, world: World, stop: StopRequest) -> int:
    """Refuse in the first second, or train; gives the exit code."""
    from corpus.store import StoreLost
    from launch.distillation import check_input, distil
    from launch.output_folder import check_writable
    from launch.run_config import read_run_config
    from launch.run_folder import is_under_way, read_done, summary
    from pretrain.peers import PeerLost
    from pretrain.trainer import DataLate

    mute_transformers()
    run = arguments.run or Path("runs") / arguments.config.stem
    try:
        config = read_run_config(arguments.config, arguments.overrides)
        job = check_input(config, run, world.size)
        done = read_done(run)
        if not done:
            check_writable(run, "run folder")
    except StoreLost as error:  # what a run was begun with was there, and may come back
        return leave_lost(world, error) if is_under_way(run) else refuse(world, error)
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
        number = distil(config, job, run, stop, lambda error: os._exit(leave_lost(world, error)))
    except (PeerLost, StoreLost, DataLate) as error:
        return leave_lost(world, error)
    except ValueError as error:
        say(f"[rank {world.rank}] stopped: {error}")
        return REFUSED
    return STOPPED if number else 0


if __name__ == "__main__":
    lead(__doc__, run_job)
