"""Reading of labelled records from JSON, tab-separated tables, CSV and tags; errors name the file and the line."""

import codecs
import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tasks.kinds.kind import Column, TaskSettings
from tasks.kinds.tag_files import read_tagged_records

Record = tuple[str, Any]  # its file and line, for messages, and its values
_Row = tuple[str, list[str]]
_Line = tuple[str, str]  # its file and number, and its text
_OTHERS = "format may be table, csv or, for entities, tags"


def read_text(path: Path) -> str:
    """Return a file's text. Raise ValueError if it cannot be read or is not UTF-8."""
    try:
        data = path.read_bytes()
        return data.decode("utf-8-sig")  # read_text would also end lines at a lone carriage return
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        # `from None` because the cause would contain the whole file
        advice = encoding_advice(path, data)
        raise ValueError(f"{path}: not UTF-8: {error.reason} at byte {error.start}; {advice}") from None


def encoding_advice(path: Path, data: bytes) -> str:
    """Return the command that makes UTF-8 of a file whose first bytes are `data`."""
    codec = "UTF-16" if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "GB18030"
    return f"if it is {codec}: iconv -f {codec} -t UTF-8 {path.name} > {path.stem}.utf8{path.suffix}"


def task_files(pattern: str) -> list[Path]:
    """Return the file at a path, or the files whose names match one with * or ?, sorted. Raise ValueError for none."""
    if not set(Path(pattern).name) & set("*?"):
        return [Path(pattern)]
    if not (found := sorted(Path(pattern).parent.glob(Path(pattern).name))):
        raise ValueError(f"{pattern}: no file matches this pattern")
    return found


def read_records(path: Path, config: TaskSettings) -> Iterator[Record]:
    """Yield the records of a file in the task's format. Raise ValueError naming the file and line of a problem."""
    text = read_text(path)
    if config.format == "json_lines":
        yield from read_json_records(path, text)
    elif config.format == "tags":
        yield from read_tagged_records(path, text)
    elif config.format == "csv":
        yield from _name_columns(list(_csv_rows(path, text)), config.has_header)
    else:
        rows = [(where, line.split("\t")) for where, line in _numbered_lines(path, text)]
        yield from _name_columns(rows, config.has_header)


def _numbered_lines(path: Path, text: str) -> Iterator[_Line]:
    """Yield the lines that are not blank. Not splitlines(), which would split texts at U+2028 and the like."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip(" \r"):
            yield f"{path}:{number}", line.removesuffix("\r")


def read_json_records(path: Path, text: str, advice: str = _OTHERS) -> Iterator[Record]:
    """Yield the JSON objects or lists of a file: one a line, or the whole file a list of them, or a single one.

    Raise ValueError naming the file and line of what is not JSON, with the advice for a file that is none.
    """
    whole = whole_json(text)
    if isinstance(whole, dict):
        yield f"{path}:1", whole
    elif isinstance(whole, list) and whole and all(isinstance(one, type(whole[0])) for one in whole):
        yield from ((f"{path}: record {number}", one) for number, one in enumerate(whole, 1))
    else:
        yield from _read_json_lines(_numbered_lines(path, text), advice)


def whole_json(text: str) -> Any:
    """Return the value of a file that is one JSON object, or a list of objects or lists; None for others."""
    try:
        whole = json.loads(text) if text.lstrip()[:1] in ("[", "{") else None
    except (ValueError, RecursionError):
        return None
    return whole if isinstance(whole, dict) or (whole and isinstance(whole[0], dict | list)) else None


def _read_json_lines(lines: Iterable[_Line], others: str) -> Iterator[Record]:
    for where, line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            advice = "`jq -c . FILE` writes objects that span lines so" if line.lstrip()[:1] in ("[", "{") else others
            raise ValueError(f"{where}: not a JSON object or list on one line: {error}; {advice}") from error
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
