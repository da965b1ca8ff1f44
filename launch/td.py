"""Task distillation: fine-tune the teacher (FT), continue general distillation (GED), distil the task (TD1, TD2),
make the fine-tuned teacher elastic (DynaBERT).

    deepspeed launch/td.py --config configs/tasks/tnews.json [--run runs/mine] [--set student=students/4l312d ...]

A stopped run is resumed after its last finished stage by the same command, or by --run alone. All hosts must see the
run folder. Signals and exit codes are the same as of launch/gd.py.
"""

import argparse
import sys
from pathlib import Path

if not __package__:  # run as a script: these folders win over any installed package of the same name
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from launch.job.rank import Train, main
from launch.job.world import World
from pretrain.progress import say


def prepare(arguments: argparse.Namespace, run: Path, world: World) -> Train:
    """Check everything that can be checked before training; return the function that runs the stages."""
    from launch.command_line.config_file import read_strictly
    from launch.command_line.output_folder import check_writable
    from launch.stages.chain import Chain, check_chain
    from launch.stages.config import TaskRunConfig
    from tasks.readers import read_task, with_unlabelled

    config = read_strictly(TaskRunConfig, arguments.config, arguments.overrides)
    config.deepspeed.accumulation_steps(world.size)
    config.check()
    check_chain(config, run, world.size)
    data, more = read_task(config.task), ""
    if config.reads_unlabelled:
        data, more = with_unlabelled(data, config.task)
    elif config.task.augmented or config.task.unlabelled:
        more = "task.augmented and task.unlabelled are not read: no stage of td1, td2 and elastic has a teacher"
    config.check_heads(data.labels)
    check_writable(run, "run folder")
    if world.rank == 0:
        say(f"{config.task.name}: {data.summary}")
        if more:
            say(f"{config.task.name}: {more}")
    return lambda stop, on_lost: Chain(config, data, run, stop, on_lost).train()


if __name__ == "__main__":
    main(__doc__, prepare)
