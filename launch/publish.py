"""Publish a student as an ordinary Hugging Face folder: config, safetensors, tokenizer, a model card of real facts, and
training.json, which trains it again.

    python launch/publish.py --run runs/4l312d --student 4l312d --output students/4l312d \\
        [--step 5000] [--teacher-name hfl/chinese-roberta-wwm-ext-large] [--licence apache-2.0]

A pooler that no objective reached stays behind: it is random numbers, which fine-tuning is to draw anew for each seed.
The folder appears only after transformers has loaded what was written and answered as the student did in training.
A student with a masked-language head keeps it: AutoModel and AutoModelForMaskedLM both load the folder.
"""

import argparse
import sys
from pathlib import Path

if not __package__:  # run as a script: these folders win over any installed package of the same name
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from launch.command_line.next_command import load_line, next_line
from launch.command_line.terminal import accept_any_terminal
from launch.job.messages import mute_transformers
from launch.publishing.student_folder import load_options, publish


def main() -> None:
    """Publish one student and say what was checked."""
    accept_any_terminal()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--student", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--step", type=int, help="the newest checkpoint unless given")
    parser.add_argument("--teacher-name", help="what readers know the teacher by; its path unless given")
    parser.add_argument("--licence", help="of the weights, by the model hub's names, say apache-2.0")
    arguments = parser.parse_args()
    mute_transformers()
    try:
        difference = publish(**vars(arguments))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; nothing was published", file=sys.stderr)
        sys.exit(130)
    print(f"{arguments.output}: loads with AutoModel and answers as in training (largest difference {difference:.1e})")
    print(load_line(arguments.output, options=load_options(arguments.output)))
    task = ["--config", "configs/tasks/tnews.json", "--set", f"student={arguments.output}"]
    print(next_line("deepspeed", "launch/td.py", *task))


if __name__ == "__main__":
    main()
