"""The last line of every command: what to type next, with the paths of the user's own run."""

import argparse
import json
import shlex
from pathlib import Path


def next_line(*words: str | Path) -> str:
    """`next: ...`, quoted for the shell."""
    return f"next: {shlex.join(map(str, words))}"


def publish_line(run: Path, student: str) -> str:
    """What publishes a student of a finished run."""
    publish, output = ("python", "launch/publish.py"), Path("students") / student
    return next_line(*publish, "--run", run, "--student", student, "--output", output)


def load_line(folder: Path, auto_class: str = "AutoModel", options: str = "") -> str:
    """What opens a model and its tokenizer in an interactive Python, by a class of transformers.

    Args:
        options: further arguments of the model's `from_pretrained`, as they are typed.
    """
    path = json.dumps(str(folder), ensure_ascii=False)  # in double quotes: the shell's are single ones
    model = f"{auto_class}.from_pretrained({', '.join(filter(None, (path, options)))})"
    loads = f"model, tokenizer = {model}, AutoTokenizer.from_pretrained({path})"
    return next_line("python", "-i", "-c", f"from transformers import {auto_class}, AutoTokenizer; {loads}")


def train_line(manifest: str, tokenizer: str) -> str:
    """What trains a student on a corpus, under the teacher whose tokenizer it was built with."""
    inputs = [f"corpus.manifest={manifest}", f"teacher.path={tokenizer}"]
    return next_line("deepspeed", "launch/gd.py", "--config", "configs/4l312d.json", "--set", *inputs)


def build_line(options: argparse.Namespace, tokenizer: Path) -> str:
    """What builds a corpus with a new tokenizer, of the text that the flags of source_flags.py name."""
    source: list[str] = []
    for flag, values in (("--input", options.inputs), ("--format", options.format),
                         ("--text-fields", options.text_fields), ("--encoding", options.encoding)):  # fmt: skip
        if values:
            source += [flag, *([values] if isinstance(values, str) else values)]
    source = source or ["--config", "configs/corpus/wiki2019zh.json"]
    return next_line("python", "launch/build_corpus.py", *source, "--tokenizer", tokenizer, "--output", "data/corpus")
