"""The last line that a command prints: the command to type next, with the user's own paths."""

import argparse
import json
import shlex
from pathlib import Path


def next_line(*words: str | Path) -> str:
    """Return `next: ...` with the words quoted for the shell."""
    return f"next: {shlex.join(map(str, words))}"


def publish_line(run: Path, student: str, all_sizes: bool = False) -> str:
    """Return the line with the command that publishes a student of a finished run, or all sizes of an elastic one."""
    publish, output = ("python", "launch/publish.py"), Path("students") / student
    every = ["--all-sizes"] if all_sizes else []
    return next_line(*publish, "--run", run, "--student", student, *every, "--output", output)


def load_line(folder: Path, auto_class: str = "AutoModel", options: str = "", before: str = "") -> str:
    """Return the line with the command that loads a model and its tokenizer in an interactive Python.

    Args:
        options: further arguments of the model's `from_pretrained`, as they are typed.
        before: what Python needs first, such as an import.
    """
    path = json.dumps(str(folder), ensure_ascii=False)  # in double quotes because the shell's are single
    model = f"{auto_class}.from_pretrained({', '.join(filter(None, (path, options)))})"
    loads = f"model, tokenizer = {model}, AutoTokenizer.from_pretrained({path})"
    return next_line("python", "-i", "-c", f"{before}from transformers import {auto_class}, AutoTokenizer; {loads}")


def train_line(manifest: str, tokenizer: str) -> str:
    """Return the line with the command that trains a student on a corpus with the teacher of its tokenizer.

    A vocabulary of one's own has no teacher yet: the command then trains one.
    """
    has_teacher = not Path(tokenizer).is_dir() or (Path(tokenizer) / "config.json").is_file()
    config = "configs/4l312d.json" if has_teacher else "configs/teacher.json"
    inputs = [f"corpus.manifest={manifest}", *([f"teacher.path={tokenizer}"] if has_teacher else [])]
    return next_line("deepspeed", "launch/gd.py", "--config", config, "--set", *inputs)


def build_line(options: argparse.Namespace, tokenizer: Path) -> str:
    """Return the line with the command that builds a corpus with a new tokenizer from the text of source_flags.py."""
    source: list[str] = []
    for flag, values in (("--input", options.inputs), ("--format", options.format),
                         ("--text-fields", options.text_fields), ("--encoding", options.encoding)):  # fmt: skip
        if values:
            source += [flag, *([values] if isinstance(values, str) else values)]
    if getattr(options, "corpus", None):  # of whose text nothing is known here
        source = ["--config", "THE_CONFIGURATION_OF_THAT_CORPUS.json"]
    source = source or ["--config", "configs/corpus/wiki2019zh.json"]
    return next_line("python", "launch/build_corpus.py", *source, "--tokenizer", tokenizer, "--output", "data/corpus")
