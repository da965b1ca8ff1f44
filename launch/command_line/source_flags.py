"""Flags for one source of text, for commands that read text without building a corpus."""

import argparse
from pathlib import Path
from typing import get_args

from corpus.config import SourceConfig
from corpus.config_file import validate
from corpus.reading.charset import Encoding
from corpus.reading.formats import FORMATS


def add_source_flags(
    parser: argparse.ArgumentParser, *, required: bool, title: str = "text"
) -> argparse._ArgumentGroup:
    """Add --input, --format, --text-fields and --encoding to a parser, in a group that is returned."""
    source = parser.add_argument_group(title)
    source.add_argument(
        "--input",
        nargs="+",
        dest="inputs",
        metavar="PATH",
        required=required,
        help="files, folders, zips, tars, URLs or datasets://HUB_ID?split=train, read in place",
    )
    source.add_argument("--format", required=required, help=f"one of {', '.join(FORMATS)}")
    source.add_argument(
        "--text-fields", nargs="+", metavar="FIELD", help="jsonl: fields that are joined to the document, in order"
    )
    source.add_argument("--encoding", help=f"one of {', '.join(get_args(Encoding))} (default: utf-8)")
    return source


def build_source(options: argparse.Namespace) -> SourceConfig:
    """Return the source that the flags describe. Raise ValueError naming every problem at once."""
    values = {"name": Path(options.inputs[0]).name, "inputs": options.inputs, "format": options.format}
    if options.encoding:
        values["encoding"] = options.encoding
    if options.text_fields:
        values["text_fields"] = options.text_fields
    return validate(SourceConfig, values, "command line")
