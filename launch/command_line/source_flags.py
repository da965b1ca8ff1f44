"""Flags that name one source of text, for the commands that read text and build no corpus."""

import argparse
from pathlib import Path
from typing import get_args

from pydantic import ValidationError

from corpus.config import SourceConfig, describe
from corpus.reading.charset import Encoding


def add_source_flags(parser: argparse.ArgumentParser, *, required: bool) -> None:
    source = parser.add_argument_group("text")
    source.add_argument(
        "--input", nargs="+", dest="inputs", required=required, help="files, folders or archives, read in place"
    )
    source.add_argument("--format", required=required, help="as in launch/build_corpus.py: wiki2019zh, lines, ...")
    source.add_argument("--text-fields", nargs="+", help="jsonl: fields that make the document, in order")
    source.add_argument("--encoding", help=f"one of {', '.join(get_args(Encoding))}; utf-8 unless given")


def build_source(options: argparse.Namespace) -> SourceConfig:
    """The source that the flags tell. Raises ValueError naming every problem at once."""
    state = {"name": Path(options.inputs[0]).name, "inputs": tuple(options.inputs), "format": options.format}
    if options.encoding:
        state["encoding"] = options.encoding
    if options.text_fields:
        state["text_fields"] = tuple(options.text_fields)
    try:
        return SourceConfig.model_validate(state)
    except ValidationError as error:
        raise ValueError(f"command line: the source is wrong:\n{describe(error, SourceConfig)}") from error
