"""A task's stages: fine-tune the teacher (FT), go on with general distillation (GED), distil the task (TD1, TD2).

    deepspeed launch/td.py --config configs/tasks/tnews.json [--run runs/mine] [--set student=students/4l312d ...]

Continues a chain that was stopped, after its last finished stage. The run folder must lie where all hosts see it.
Signals and exit codes are those of launch/gd.py.
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
    """Refuse before anything trains, or run the stages; gives the exit code."""
    from corpus.store import StoreLost
    from launch.output_folder import check_writable
    from launch.run_config import read_strictly
    from launch.run_folder import is_under_way
    from launch.task_chain import Chain, check_chain, summary
    from launch.task_run_config import TaskRunConfig
    from pretrain.peers import PeerLost, peers_heeded
    from pretrain.trainer import DataLate
    from tasks.readers import read_task

    mute_transformers()
    run = arguments.run or Path("runs") / arguments.config.stem
    try:
        config = read_strictly(TaskRunConfig, arguments.config, arguments.overrides)
        config.deepspeed.accumulation_steps(world.size)
        config.check()
        check_chain(config, run, world.size)
        data = read_task(config.task)
        config.check_heads(data.labels)
        check_writable(run, "run folder")
    except StoreLost as error:  # what a run was begun with was there, and may come back
        return leave_lost(world, error) if is_under_way(run) else refuse(world, error)
    except ValueError as error:
        return refuse(world, error)
    if world.rank == 0:
        say(f"{config.task.name}: {data.summary}")
    try:
        with peers_heeded(config.training.collective_timeout_seconds):
            chain = Chain(config, data, run, stop, lambda error: os._exit(leave_lost(world, error)))
            number = chain.train()
    except (PeerLost, StoreLost, DataLate) as error:
        return leave_lost(world, error)
    except ValueError as error:
        say(f"[rank {world.rank}] stopped: {error}")
        return REFUSED
    if world.rank == 0 and not number:
        print(summary(config, run), flush=True)
    return STOPPED if number else 0


if __name__ == "__main__":
    lead(__doc__, run_job)
