"""Flags for one source of text, for commands that read text without building a corpus."""

import argparse
import os
from pathlib import Path, PurePosixPath
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
        help="files, folders, quoted patterns ('data/*.gz'), zips, tars, URLs or datasets://HUB_ID?split=train",
    )
    source.add_argument("--format", required=required, help=f"one of {', '.join(FORMATS)}")
    source.add_argument(
        "--text-fields", nargs="+", metavar="FIELD", help="fields or columns joined to the document, in order"
    )
    source.add_argument("--encoding", help=f"one of {', '.join(get_args(Encoding))} (default: utf-8)")
    source.add_argument(
        "--on-bad-input",
        help="stop (default) at a damaged or cut file, or skip what cannot be read of it and say so",
    )
    return source


def source_names(inputs: list[str]) -> list[str]:
    """Return a name for each input as a source of its own: of the file or folder, or of the folder of a pattern.

    Where two have the same, their folders' names are put before them. Raise ValueError if they are the same still.
    """
    names = [_name(text, 0) for text in inputs]
    if len(set(names)) < len(names):
        names = [_name(text, 1) for text in inputs]
    if doubles := sorted({name for name in names if names.count(name) > 1}):
        same = ", ".join(text for text, name in zip(inputs, names, strict=True) if name == doubles[0])
        raise ValueError(
            f"--input: {same} would be sources of the same name {doubles[0]}; give --name to make one source of all "
            "inputs, or list the sources in a configuration (--config)"
        )
    return names


def _name(text: str, num_folders: int) -> str:
    """An input's name without suffixes, after those of so many folders above it."""
    path = PurePosixPath(text.partition("?")[0]) if "://" in text else Path(text)
    while set("*?[") & set(path.name) and not os.path.lexists(text):
        path = path.parent
    path = Path(os.path.realpath(path)) if "://" not in text else path  # resolve() raises for a loop of links
    parents = [folder.name for folder in path.parents[:num_folders] if folder.name]
    return "-".join([*parents, path.name.split(".")[0] or path.name])


def build_source(options: argparse.Namespace) -> SourceConfig:
    """Return the source that the flags describe. Raise ValueError naming every problem at once."""
    values = {"name": Path(options.inputs[0]).name, "inputs": options.inputs, "format": options.format}
    if options.encoding:
        values["encoding"] = options.encoding
    if options.text_fields:
        values["text_fields"] = options.text_fields
    if options.on_bad_input:
        values["on_bad_input"] = options.on_bad_input
    return validate(SourceConfig, values, "command line")
