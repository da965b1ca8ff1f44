"""General distillation: train one or several students on text, with a frozen teacher or without one.

    deepspeed launch/gd.py --config configs/4l312d.json [--run runs/mine] [--set teacher.path=... corpus.seed=3]

torchrun, mpirun, srun and plain python work too. A stopped run is resumed by the same command, or by --run alone.
With --plan nothing is trained: it prints what the run will take, cost and be worth (docs/guide.md).
SIGTERM, SIGINT (Ctrl-C), SIGUSR1 or SIGHUP to any rank stops all ranks after the same step, with a checkpoint; a second
SIGTERM or SIGINT ends a rank at once. All hosts must see the run folder. A run is complete when there is a `done.json`
in it.

Exit codes of every rank:
    0   done: trained to the last step, now or earlier
    1   unexpected error
    2   invalid input, or the run cannot continue (the message says why)
    75  stopped before the end, with a checkpoint: run again to resume
    76  another rank or host was lost, or the corpus of a run that has started is unreachable: run again to resume from
        the newest checkpoint
"""

import argparse
import sys
from pathlib import Path

if not __package__:  # run as a script: these folders win over any installed package of the same name
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from launch.job.rank import Train, main
from launch.job.world import World
from launch.planning.flags import add_plan_flags, plan_values


def prepare(arguments: argparse.Namespace, run: Path, world: World) -> Train:
    """Check everything that can be checked before models are loaded; return the function that trains."""
    from launch.command_line.output_folder import check_writable
    from launch.distillation.checks import check_finished, check_input
    from launch.distillation.config import read_run_config
    from launch.distillation.run_files import summary
    from launch.distillation.training import distil
    from launch.job.run_folder import read_done

    config, plan = read_run_config(arguments.config, arguments.overrides), plan_values(arguments)
    if arguments.plan:
        from launch.planning.plan import PlanOptions, describe_plan

        if world.rank == 0:
            print(describe_plan(config, PlanOptions(**plan)), flush=True)
        return lambda *_: 0
    job = check_input(config, run, world.size)
    if not (done := read_done(run)):
        check_writable(run, "run folder")
        return lambda stop, on_lost: distil(config, job, run, stop, on_lost)
    check_finished(config, run)
    if world.rank == 0:
        when = f"{done.finished:%Y-%m-%d %H:%M} UTC"
        print(f"already done, {when}: {run / 'done.json'}\n{summary(run, config, done)}", flush=True)
    return lambda *_: 0


if __name__ == "__main__":
    main(__doc__, prepare, add_plan_flags)
