"""Export a student as ONNX files for serving, in float32 and with 8-bit or 4-bit weights, each compared with the model.

    python launch/export.py --student students/4l312d --output exported/4l312d --int8 --task thucnews10
    python launch/export.py --student runs/tnews/td2/model --output exported/tnews --int8 --task tnews

The graphs are onnx/model.onnx, model_quantized.onnx and model_q4.onnx, with the tokenizer and the configuration
beside, as transformers.js and sentence-transformers read them. What was measured is on the card (README.md) and in
export.json.
Needs the libraries of requirements-export.txt.
Exit codes: 0 done, 2 the input was refused or an answer lost too much (a line `error: ...`), 130 stopped by Ctrl-C.
"""

import argparse
import sys
import warnings
from pathlib import Path

if not __package__:  # run as a script: these folders win over any installed package of the same name
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from launch.command_line.terminal import accept_any_terminal
from launch.exporting.card import table
from launch.exporting.exporter import LostError, export
from launch.job.messages import mute_transformers


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", type=Path, required=True, help="folder of a published student or a task's model")
    parser.add_argument("--output", type=Path, required=True, help="folder to write; must not exist")
    parser.add_argument("--int8", action="store_true", help="also with 8-bit weights: a quarter of the size, faster")
    parser.add_argument("--int4", action="store_true", help="also with 4-bit weights: smaller still, not faster")
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--check", type=Path, help='texts to compare on, one a line, or a .jsonl file of {"text"}')
    asked.add_argument("--task", help="a name in configs/tasks or the path of a task file, to compare scores on too")
    parser.add_argument("--force", action="store_true", help="write what lost more than is allowed")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    accept_any_terminal()
    warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
    options = parse_arguments(arguments)
    mute_transformers()
    try:
        record = export(**vars(options))
    except (ValueError, OSError) as error:
        if isinstance(error, LostError):
            print(table(error.record))
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        return 130
    print(f"{options.output}: answers as the model does on {record['checked_on']}" if not record["lost"] else
          f"{options.output}: written although it lost: {'; '.join(record['lost'])}")  # fmt: skip
    print(table(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
