"""Label new text with a task model, fine-tuned or distilled: any kind of task.

    python launch/predict.py --model runs/tnews/td2/model --task tnews --input new.jsonl --output labelled.jsonl
    python launch/predict.py --model runs/csl/td2/model --task csl --input data/clue/csl/test.json --form clue \\
        --output submission

The input is in the form of the task's own files, labels may be missing and are not read; .json, .jsonl, .csv, .tsv and
.txt (a text a line) are told by their suffix, unless the task's own file has the same. Forms: JSON lines (an object a
record, in the order of the input), csv, and clue, the file that CLUE's boards read, by its fixed name in a folder. A
record that cannot be read has no answer but a `problem`, and is counted. A stopped command goes on when it is given
again.

Exit codes: 0 done; 2 invalid input; 75 stopped: run again to go on.
"""

import argparse
import sys
from collections.abc import Mapping
from hashlib import file_digest
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if not __package__:  # run as a script: these folders win over any installed package of the same name
    sys.path[0] = str(ROOT)

from launch.job.command import run_stoppable
from pretrain.progress import say
from pretrain.ranks.stopping import Stopped, StopRequest


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Decode the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="FOLDER", help="a model with a head for the task, or hub id")
    parser.add_argument("--task", required=True, metavar="TASK", help="name or path of a task file, as for td.py")
    parser.add_argument("--input", type=Path, required=True, help="the file to label")
    parser.add_argument("--output", type=Path, required=True, help="the file to write; for --form clue also a folder")
    parser.add_argument("--form", choices=("jsonl", "csv", "clue"), help="by the output's suffix, or jsonl")
    parser.add_argument("--probabilities", action="store_true", help="also how sure the model is")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32",
                        help="the type to compute in (float32)")  # fmt: skip
    return parser.parse_args(arguments)


def run(options: argparse.Namespace, stop: StopRequest) -> None:
    """Predict the file. Raise ValueError for what cannot be used, Stopped if asked to stop."""
    from launch.evaluation.config import read_task_file
    from launch.prediction.forms import Form, write_answers
    from launch.prediction.model import Predictor
    from launch.prediction.predictions import Predictions, predict_inputs
    from launch.prediction.submissions import submission_path
    from pretrain.device import chosen_device, device_name
    from tasks.kinds.registry import KINDS

    task = read_task_file(options.task, "--task")
    form: Form = options.form or ("csv" if options.output.suffix.lower() == ".csv" else "jsonl")
    output = submission_path(task, options.output, options.input) if form == "clue" else options.output
    if output.exists():
        raise ValueError(f"--output {output}: already exists; remove it or give another")
    if not options.input.is_file():
        raise ValueError(f"--input {options.input}: there is no such file")
    device = chosen_device()
    predictor = Predictor(options.model, task, options.dtype, device)
    kept = Predictions(output, _made_with(options, task.model_dump(mode="json")))
    if kept.state["inputs"]:
        say(f"goes on after {kept.state['inputs']:,} answers")
    say(f"runs on {device_name(device)} in {options.dtype}")
    inputs = KINDS[task.kind].inputs(options.input, task)
    stop.waits_for = lambda: "before the next batch; the answers of finished parts are kept"

    def check_stop() -> None:
        if stop.reason:
            raise Stopped(f"{kept.state['inputs']:,} answers are kept")

    try:
        predict_inputs(predictor, inputs, kept, options.probabilities, form == "clue", check_stop)
        if not kept.state["inputs"]:
            raise ValueError(f"--input {options.input}: there is nothing in it to predict")
    finally:
        kept.remove_if_empty()
    write_answers(output, form, task, kept.read(), options.probabilities)
    kept.remove()
    for remark in kept.remarks(task.name, task.row_tokens):
        say(remark)
    print(f"{kept.state['inputs']:,} answers: {output}")


def _made_with(options: argparse.Namespace, task: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the answers depend on."""
    folder = Path(options.model)
    weights = sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")]) if folder.is_dir() else []
    return {
        "task": dict(task), "model": {path.name: _digest(path) for path in weights} or options.model,
        "input": _digest(options.input), "dtype": options.dtype, "probabilities": options.probabilities,
    }  # fmt: skip


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit code."""
    return run_stoppable(lambda: parse_arguments(arguments), run)


if __name__ == "__main__":
    sys.exit(main())
