"""Compare models by fine-tuning: every model on every task, in the same way, with several seeds; also size and speed.

    python launch/evaluate_tasks.py --models hfl/chinese-roberta-wwm-ext students/4l312d my=runs/x/start/4l312d \\
        --tasks tnews afqmc ocnli --seeds 3 --output runs/evaluation [--workers 2] [--set fine_tuning.epochs=5]

    python launch/evaluate_tasks.py --models students/4l312d --suite nlpcc2020 --data data/clue --output runs/nlpcc2020

The others are compared with the first model. Tasks are names of files in configs/tasks, or paths of similar files. A
suite is a benchmark of configs/suites: its tasks that are on this disk, published rows beside ours, limits checked.
Writes results.json, results.md and results.png. Finished fine-tuning runs are kept: the same command resumes after a
stop, and models, tasks or seeds may be added. Workers are processes that share the runs: by default one per GPU, or one
on a CPU, where several share the cores. The same command on several machines with the same --output shares them too.

Exit codes: 0 done; 1 a worker failed (its log is named, the other runs are finished, and the results contain the models
with all runs); 2 invalid input; 75 stopped, or another machine is still working: run again to resume.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if not __package__:  # run as a script: these folders win over any installed package of the same name
    sys.path[0] = str(ROOT)

from launch.command_line.next_command import next_line
from launch.command_line.terminal import accept_any_terminal
from launch.evaluation.config import Evaluation, read_evaluation
from launch.evaluation.suites import find_tasks, read_suite, render_suite, suite_names, suite_scores
from launch.evaluation.workers import FAILED, run_workers
from launch.job.messages import mute_transformers
from launch.job.rank import REFUSED, STOPPED
from pretrain.durable import write_durably
from pretrain.progress import say
from pretrain.ranks.stopping import StopRequest


def parse_arguments() -> argparse.Namespace:
    """Parse the command line. Worker processes get --worker."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", required=True, metavar="[NAME=]MODEL", help="folders or hub ids")
    parser.add_argument("--tasks", nargs="+", default=[], metavar="TASK", help="names or paths of task files")
    parser.add_argument("--suite", help=f"the tasks of a benchmark: {', '.join(suite_names())}")
    parser.add_argument("--data", type=Path, help="folder of TASK/train.json and the like (where the tasks say)")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from training.seed on (3)")
    parser.add_argument("--output", type=Path, required=True, help="folder for runs and results")
    parser.add_argument("--config", type=Path, default=ROOT / "configs/evaluation/clue.json",
                        help="settings of fine-tuning (configs/evaluation/clue.json)")  # fmt: skip
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="overrides",
                        help="keys of the settings to change, for example fine_tuning.epochs=5")  # fmt: skip
    parser.add_argument("--workers", type=int, help="number of processes (one per GPU, or one)")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """Run the command, or one of its workers; return the exit code."""
    accept_any_terminal()
    arguments = parse_arguments()
    stop = StopRequest(1 if arguments.worker else 0, say)
    mute_transformers()
    try:
        evaluation, missing = _read(arguments)
        if arguments.worker:
            return work(evaluation, arguments, stop)
        for sentence in missing:
            say(f"left out: {sentence}")
        return evaluate(evaluation, arguments, stop, missing)
    except ValueError as error:
        say(f"error: {error}")
        return REFUSED


def _read(arguments: argparse.Namespace) -> tuple[Evaluation, list[str]]:
    """Return the evaluation that is asked for, and a sentence on each task of a suite that is not on this disk."""
    if bool(arguments.tasks) == bool(arguments.suite):
        raise ValueError("--tasks or --suite: give one of them")
    names = read_suite(arguments.suite).tasks if arguments.suite else arguments.tasks
    tasks, missing = find_tasks(names, arguments.data, "--tasks") if arguments.suite or arguments.data else (None, [])
    if missing and (arguments.tasks or not tasks):
        raise ValueError("\n".join(missing))
    found = read_evaluation(arguments.config, arguments.overrides, arguments.models, arguments.tasks, arguments.seeds)
    return (found if tasks is None else replace(found, tasks=tasks)), missing


def work(evaluation: Evaluation, arguments: argparse.Namespace, stop: StopRequest) -> int:
    """Fine-tune as a worker until no runs are left; return the exit code."""
    from launch.evaluation.cells import make_cells
    from pretrain.ranks.process_group import start_distributed
    from pretrain.ranks.stopping import Stopped

    try:
        make_cells(evaluation, arguments.output, start_distributed(), lambda: stop.reason)
    except Stopped:
        return STOPPED
    return 0


def evaluate(
    evaluation: Evaluation, arguments: argparse.Namespace, stop: StopRequest, not_here: Sequence[str] = ()
) -> int:
    """Run the workers, then measure sizes and speeds and write the results; return the exit code."""
    from launch.evaluation.cells import check_cells, complete_models, settle_precision
    from launch.evaluation.table import count_examples, cut_texts, measure_costs, write_results
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
    stop.waits_for = lambda: "once every worker has finished its step and saved it"
    code = run_workers(evaluation, arguments.output, arguments.workers, stop)
    if code not in (0, FAILED):
        say(next_line("python", *sys.argv))
        return code
    check_cells(evaluation, arguments.output)  # again: other machines may have added cells
    complete = complete_models(evaluation, arguments.output)
    missing = ", ".join(name for name in evaluation.models if name not in complete)
    if missing and not code:
        say("Waiting for runs on another machine; run this command again when they are finished.")
        return STOPPED
    if (reference := next(iter(evaluation.models))) not in complete:
        say(f"no results: not all runs of {reference}, with which the others are compared, are finished")
        return FAILED
    if missing:
        say(f"left out of the results: {missing}; not all of their runs are finished")
    evaluation = replace(evaluation, models=complete)
    suite = read_suite(arguments.suite) if arguments.suite else None
    costs = measure_costs(complete, list(tasks.values()), with_base=bool(suite and suite.limits))
    commonest = {name: score_of_commonest_label(tasks[name], task) for name, task in evaluation.tasks.items()}
    remarks.append(count_examples(tasks))
    table = write_results(evaluation, arguments.output, costs, commonest, remarks, device_name(device))
    if suite:
        results = json.loads((arguments.output / "results.json").read_text(encoding="utf-8"))
        table += "\n" + render_suite(arguments.suite, suite, suite_scores(results), costs, not_here)
        write_durably(arguments.output / "results.md", table)
    print(table)
    print(f"next: open {arguments.output / 'results.png'}, or run this command again with more --models or --tasks")
    sys.stdout.flush()
    return code


if __name__ == "__main__":
    sys.stdout.flush()
    os._exit(main())
