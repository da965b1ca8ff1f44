"""General distillation: one frozen teacher or none, one or several students, one DeepSpeed engine each.

    deepspeed launch/gd.py --config configs/4l312d.json [--run runs/mine] [--set teacher.path=... corpus.seed=3]

The same under torchrun, mpirun, srun or none of them. Continues a run that was stopped; for that --run alone will do.
SIGTERM, SIGINT (Ctrl-C), SIGUSR1 or SIGHUP to any rank stops all of them at one step, with a checkpoint; a second
SIGTERM or SIGINT ends a rank at once. The run folder must lie where all hosts see it. `done.json` in it is the one
sign that a run is complete.

Exit codes of every rank:
    0   done: trained to the last step, now or before
    1   anything that is not foreseen
    2   the input was refused, or the run cannot go on as it is (the message says why)
    75  stopped before the end with a checkpoint: run again to go on
    76  another rank or host was lost, or the corpus of a run that was begun is out of reach: run again to go on from
        the newest checkpoint
"""

import argparse
import sys
from pathlib import Path

# The deepspeed launcher puts only launch/ on the path.

if not __package__:  # run as a script: these folders win over any installed package of the same name
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from launch.job.rank import Train, main
from launch.job.world import World


def prepare(arguments: argparse.Namespace, run: Path, world: World) -> Train:
    """Refuse before anything is loaded what cannot be trained; gives what trains the rest."""
    from launch.command_line.output_folder import check_writable
    from launch.distillation.checks import check_finished, check_input
    from launch.distillation.config import read_run_config
    from launch.distillation.run_files import summary
    from launch.distillation.training import distil
    from launch.job.run_folder import read_done

    config = read_run_config(arguments.config, arguments.overrides)
    job = check_input(config, run, world.size)
    if not (done := read_done(run)):
        check_writable(run, "run folder")
        return lambda stop, on_lost: distil(config, job, run, stop, on_lost)
    check_finished(config, run)
    if world.rank == 0:
        when = f"{done.finished:%Y-%m-%d %H:%M} UTC"
        print(f"done already, {when}: {run / 'done.json'}\n{summary(run, config, done)}", flush=True)
    return lambda *_: 0


if __name__ == "__main__":
    main(__doc__, prepare)
