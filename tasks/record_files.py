"""Reading of labelled records from JSON lines, tab-separated tables and CSV; errors name the file and the line."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tasks.config import Column, TaskConfig

Record = tuple[str, Any]  # its file and line, for messages, and its values
_Row = tuple[str, list[str]]


def read_text(path: Path) -> str:
    """Return a file's text. Raise ValueError if it cannot be read or is not UTF-8."""
    try:
        return path.read_bytes().decode("utf-8-sig")  # read_text would also end lines at a lone carriage return
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        # `from None` because the cause would contain the whole file
        raise ValueError(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from None


def read_records(path: Path, config: TaskConfig) -> Iterator[Record]:
    """Yield the records of a file in the task's format. Raise ValueError naming the file and line of a problem."""
    text = read_text(path)
    # Not splitlines(), which would split texts at U+2028 and the like.
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
    csv.field_size_limit(1 << 30)  # characters; the default is 131,072
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
        raise ValueError(f"{where}: has one column; columns of a table are separated by tabs, those of csv by commas")
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{where}: the header has {repeated[0]!r} more than once")
    for where, row in rows[1:] if has_header else rows:
        if len(row) != len(names):
            raise ValueError(f"{where}: has {len(row)} columns, but {first} has {len(names)}")
        yield where, dict(zip(names, row, strict=True))
