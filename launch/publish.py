"""Publish a student as an ordinary Hugging Face folder: config, safetensors, tokenizer, a model card of real facts, and
training.json, which trains it again.

    python launch/publish.py --run runs/4l312d --student 4l312d --output students/4l312d [--size 2x600 | --all-sizes] \\
        [--step 5000] [--teacher-name hfl/chinese-roberta-wwm-ext-large] [--licence apache-2.0] [--push OWNER/NAME]

A pooler that no objective reached stays behind: it is random numbers, which fine-tuning is to draw anew for each seed.
The folder appears only after transformers has loaded what was written and answered as the student did in training.
A student with a masked-language head keeps it: AutoModel and AutoModelForMaskedLM both load the folder.

An elastic student is published in its largest size unless --size says another. --all-sizes publishes every size, each
to a folder of its own in --output, such as students/4l312d/2x600.

With --push the folder is uploaded to a model hub, to a private repository unless --public. Without --run a folder that
is there already is uploaded, an exported one too. The token is HF_TOKEN's.
"""

import argparse
import sys
from pathlib import Path

if not __package__:  # run as a script: these folders win over any installed package of the same name
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from launch.command_line.next_command import load_line, next_line
from launch.command_line.terminal import accept_any_terminal
from launch.job.messages import mute_transformers
from launch.publishing.hub import check_push, push
from launch.publishing.sizes import folders_of
from launch.publishing.student_folder import load_options, publish
from pretrain.elastic.size import Size


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--student")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--step", type=int, help="the newest checkpoint unless given")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--size", metavar="LAYERSxFEED_FORWARD", help="of an elastic student, say 2x600")
    sizes.add_argument("--all-sizes", action="store_true", help="of an elastic student, each to a folder in --output")
    parser.add_argument("--teacher-name", help="what readers know the teacher by; its path unless given")
    parser.add_argument("--licence", help="of the weights, by the model hub's names, say apache-2.0")
    parser.add_argument("--push", metavar="OWNER/NAME", help="upload the folder to this repository of a model hub")
    parser.add_argument("--public", action="store_true", help="let everybody read the repository of --push")
    options = parser.parse_args()
    if bool(options.run) != bool(options.student) or not (options.run or options.push):
        parser.error("give --run and --student, or --push alone to upload a folder that is there")
    if options.public and not options.push:
        parser.error("--public is about the repository of --push")
    if (options.size or options.all_sizes) and not options.run:
        parser.error("--size and --all-sizes are about the student of a run: give --run and --student")
    if options.all_sizes and options.push:
        parser.error("--push is one repository: publish one --size at a time to it")
    if options.run and options.push and not options.licence:
        parser.error("--push needs --licence: readers of a hub must know whether they may use the weights")
    return options


def main() -> None:
    """Publish one student, or upload a folder, or both; say what was checked."""
    accept_any_terminal()
    options = parse_arguments()
    repo, public, all_sizes = options.push, options.public, options.all_sizes
    del options.push, options.public, options.all_sizes
    mute_transformers()
    done = "nothing was published"
    try:
        if repo:
            check_push(repo)
        if options.run:
            options.size = Size.parse(options.size) if options.size else None
            for output, size in folders_of(options.run, options.student, options.output, all_sizes):
                difference = publish(**vars(options) | {"output": output, "size": size or options.size})
                done = f"{output} is published" + (", and not uploaded" if repo else "")
                checked = f"loads with AutoModel and answers as in training (largest difference {difference:.1e})"
                print(f"{output}: {checked}")
        if repo:
            print(f"{options.output}: uploaded to {push(options.output, repo, public)}")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"stopped; {done}", file=sys.stderr)
        sys.exit(130)
    if options.run:
        print(load_line(output, options=load_options(output)))
        task = ["--config", "configs/tasks/tnews.json", "--set", f"student={output}"]
        print(next_line("deepspeed", "launch/td.py", *task))


if __name__ == "__main__":
    main()
