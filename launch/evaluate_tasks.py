"""What models are worth after fine-tuning: each on each task, the same way, with several seeds; and what they cost.

    python launch/evaluate_tasks.py --models hfl/chinese-roberta-wwm-ext students/4l312d my=runs/x/start/4l312d \\
        --tasks tnews afqmc ocnli --seeds 3 --output runs/evaluation [--workers 2] [--set fine_tuning.epochs=5]

The first model is what the others are compared with. Tasks are files of configs/tasks, or paths of others like them.
Writes results.json, results.md and results.png. Stopped, it goes on: a cell that is made is not made again, and more
models, tasks or seeds may be added. Workers are processes that share the cells: one a GPU unless told, each with its
share of the cores on a CPU box; the same command on several machines with one --output shares them too.

Exit codes: 0 done; 1 a worker failed (its log is named, the rest is made, and the results are of the models that are
complete); 2 refused; 75 stopped, or another machine is still at it: run again to go on.
"""

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if not __package__:  # run as a script: these folders win over any installed package of the same name
    sys.path[0] = str(ROOT)

from launch.command_line.next_command import next_line
from launch.evaluation.config import Evaluation, read_evaluation
from launch.evaluation.workers import FAILED, run_workers
from launch.job.messages import mute_transformers
from launch.job.rank import REFUSED, STOPPED
from pretrain.progress import say
from pretrain.ranks.stopping import StopRequest


def parse_arguments() -> argparse.Namespace:
    """The command line; --worker is what the workers are told apart by."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", required=True, metavar="[NAME=]MODEL")
    parser.add_argument("--tasks", nargs="+", required=True, metavar="TASK")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from training.seed on (3)")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=ROOT / "configs/evaluation/clue.json")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--workers", type=int, help="processes (one a GPU, or one)")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """Check, have the cells made, measure the costs, write what was found."""
    arguments = parse_arguments()
    stop = StopRequest(1 if arguments.worker else 0, say)
    mute_transformers()
    try:
        evaluation = read_evaluation(
            arguments.config, arguments.overrides, arguments.models, arguments.tasks, arguments.seeds
        )
        return (work if arguments.worker else evaluate)(evaluation, arguments, stop)
    except ValueError as error:
        say(f"error: {error}")
        return REFUSED


def work(evaluation: Evaluation, arguments: argparse.Namespace, stop: StopRequest) -> int:
    """One worker: makes cells until none is left."""
    from launch.evaluation.cells import make_cells
    from pretrain.ranks.process_group import start_distributed
    from tasks.fine_tuning import Stopped

    try:
        make_cells(evaluation, arguments.output, start_distributed(), lambda: stop.reason)
    except Stopped:
        return STOPPED
    return 0


def evaluate(evaluation: Evaluation, arguments: argparse.Namespace, stop: StopRequest) -> int:
    """The process that was started: sees to the workers, then measures and writes."""
    from launch.evaluation.cells import check_cells, complete_models, settle_precision
    from launch.evaluation.table import cut_texts, measure_costs, write_results
    from pretrain.device import check_accelerator, chosen_device, device_name, explain_native
    from tasks.evaluation import score_of_commonest_label
    from tasks.readers import read_task

    check_accelerator()
    evaluation.check()
    evaluation = settle_precision(evaluation, arguments.output, device := chosen_device())
    dtype = evaluation.config.deepspeed.torch_autocast.wanted
    say(f"runs on {device_name(device)}; all models in {dtype}{explain_native(device)}")
    tasks = {name: read_task(task) for name, task in evaluation.tasks.items()}
    for name, data in tasks.items():
        say(f"{name}: {data.summary}")
    remarks = cut_texts(evaluation, tasks)
    for remark in remarks:
        say(f"to score: {remark}")
    check_cells(evaluation, arguments.output)
    stop.waits_for = lambda: "once every worker has saved the step that it makes"
    code = run_workers(evaluation, arguments.output, arguments.workers, stop)
    if code not in (0, FAILED):
        say(next_line("python", *sys.argv))
        return code
    check_cells(evaluation, arguments.output)  # other machines may have been at it
    complete = complete_models(evaluation, arguments.output)
    missing = ", ".join(name for name in evaluation.models if name not in complete)
    if missing and not code:
        say("the other cells are made on another machine; run again when they are")
        return STOPPED
    if (reference := next(iter(evaluation.models))) not in complete:
        say(f"no results: {reference}, which the others are compared with, does not have all of its cells")
        return FAILED
    if missing:
        say(f"left out of the results: {missing}; not all of their cells are made")
    evaluation = replace(evaluation, models=complete)
    costs = measure_costs(complete, list(tasks.values()))
    commonest = {name: score_of_commonest_label(tasks[name], task) for name, task in evaluation.tasks.items()}
    print(write_results(evaluation, arguments.output, costs, commonest, remarks, device_name(device)))
    print(f"next: open {arguments.output / 'results.png'}, or run this command again with more --models or --tasks")
    sys.stdout.flush()
    return code


if __name__ == "__main__":
    sys.stdout.flush()
    os._exit(main())
