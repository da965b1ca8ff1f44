"""Files of labelled records: JSON lines, tables separated by tabs, CSV. Every problem names the file and the line."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tasks.config import Column, TaskConfig

Record = tuple[str, Any]  # where it stands, for messages, and its values
_Row = tuple[str, list[str]]


def read_text(path: Path) -> str:
    """A file's text, as it is; ValueError where it cannot be read or is not UTF-8."""
    try:
        return path.read_bytes().decode("utf-8-sig")  # read_text would end lines at a lone carriage return too
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from None  # which holds the file


def read_records(path: Path, config: TaskConfig) -> Iterator[Record]:
    """The records of a file in the task's format."""
    text = read_text(path)
    # Not splitlines: U+2028 and others of its kind stand inside texts.
    lines = [(f"{path}:{number}", line) for number, line in enumerate(text.split("\n"), 1) if line.strip(" \r")]
    if config.format == "json_lines":
        yield from _read_json_lines(lines)
    elif config.format == "csv":
        yield from _name_columns(list(_csv_rows(path, text)), config.has_header)
    else:
        rows = [(where, line.removesuffix("\r").split("\t")) for where, line in lines]
        yield from _name_columns(rows, config.has_header)


def _read_json_lines(lines: Sequence[tuple[str, str]]) -> Iterator[Record]:
    for where, line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}: not a JSON object or list on one line: {error}") from error
        if not isinstance(record, (dict, list)):
            raise ValueError(f"{where}: not a JSON object or list: {line[:60]}")
        yield where, record


def _csv_rows(path: Path, text: str) -> Iterator[_Row]:
    csv.field_size_limit(1 << 30)  # characters; 131,072 unless told
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        yield from ((f"{path}:{reader.line_num}", row) for row in reader if row)
    except csv.Error as error:
        raise ValueError(f"{path}:{reader.line_num}: not CSV: {error}") from error


def _name_columns(rows: list[_Row], has_header: bool) -> Iterator[Record]:
    if not rows:
        return
    where, header = rows[0]
    names: Sequence[Column] = header if has_header else range(len(header))
    first = "the header" if has_header else "the first row"
    if len(names) == 1:
        raise ValueError(f"{where}: one column; those of a table are separated by tabs, those of csv by commas")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{where}: the header has {twice[0]!r} more than once")
    for where, row in rows[1:] if has_header else rows:
        if len(row) != len(names):
            raise ValueError(f"{where}: {len(row)} columns, {first} has {len(names)}")
        yield where, dict(zip(names, row, strict=True))
