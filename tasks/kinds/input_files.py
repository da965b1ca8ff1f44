"""Records to predict, read one at a time: a file may be larger than memory, and a bad record stops nothing."""

import csv
import json
import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

from tasks.kinds.kind import TaskSettings
from tasks.kinds.record_files import Record, encoding_advice, read_json_records, read_text, whole_json
from tasks.kinds.tag_files import is_tagged, tagged_record

_BY_SUFFIX = {".json": "json_lines", ".jsonl": "json_lines", ".csv": "csv", ".tsv": "table", ".txt": "text"}
_BOM = b"\xef\xbb\xbf"
_HALF = re.compile("[\ud800-\udfff]")  # a lone surrogate, which no file can hold
_Line = tuple[str, str]  # its file and number, and its text
Input = Record | ValueError


class UnreadableRow(ValueError):
    """A row with other columns than the header.

    Attributes:
        id: its first cell if that column is `id`, since the others may have moved; None otherwise.
    """

    def __init__(self, message: str, id: str | None) -> None:
        super().__init__(message)
        self.id = id


def read_inputs(path: Path, config: TaskSettings) -> Iterator[Input]:
    """Yield the records of a file, and for each that cannot be read an error that names its line.

    The suffix tells the format: .json, .jsonl, .csv, .tsv, or .txt with a text a line. For any other, and for that of
    the task's training or development file, it is the task's format; tags also for all but JSON. Raise ValueError if
    the file cannot be read.
    """
    form = _form_of(path, config)
    if form in ("csv", "table"):
        yield from _table(path, form, config.has_header or form != config.format)
    elif form == "tags":
        yield from _tagged(path)
    elif form == "text":
        for line in _lines(path):
            yield line if isinstance(line, ValueError) else (line[0], {config.columns.text: line[1]})
    else:
        yield from _json(path)


def id_of(record: Input, number: int) -> int | str:
    """Return the `id` of a record, also of one that cannot be used; `number` if it has none."""
    if isinstance(record, ValueError):
        own = getattr(record, "id", None)
    else:
        own = record[1].get("id") if isinstance(record[1], dict) else None
    return own if isinstance(own, int | str) and own != "" and not _HALF.search(str(own)) else number


def _form_of(path: Path, config: TaskSettings) -> str:
    suffix, *own = [Path(one).suffix.lower() for one in (path, config.train, config.dev)]
    form = _BY_SUFFIX.get(suffix, config.format)
    is_own = suffix in own or (config.format == "tags" and form != "json_lines")
    return config.format if is_own else form


def _lines(path: Path, keeps_blank: bool = False) -> Iterator[_Line | ValueError]:
    """Yield the lines, of blank ones none unless asked for, and an error for each that is not UTF-8."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                where = f"{path}:{number}"
                try:
                    text = (line.removeprefix(_BOM) if number == 1 else line).decode().rstrip("\r\n")
                except UnicodeDecodeError as error:
                    yield ValueError(f"{where}: not UTF-8: {error.reason}; {encoding_advice(path, line)}")
                    continue
                if keeps_blank or text.strip():
                    yield where, text
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error


def _json(path: Path) -> Iterator[Input]:
    first = next(_lines(path), None)
    is_whole = isinstance(first, tuple) and (first[1].lstrip().startswith("[") or not _is_json(first[1]))
    if is_whole and whole_json(text := read_text(path)) is not None:  # a list of records, or one over several lines
        yield from read_json_records(path, text)
        return
    for line in _lines(path):
        yield line if isinstance(line, ValueError) else _record(*line)


def _tagged(path: Path) -> Iterator[Input]:
    lines = _lines(path, keeps_blank=True)
    for is_text, group in groupby(lines, lambda line: isinstance(line, ValueError) or is_tagged(line[1])):
        if is_text:
            yield _tagged_text(group)


def _tagged_text(lines: Iterable[_Line | ValueError]) -> Input:
    found: list[_Line] = []
    for line in lines:
        if isinstance(line, ValueError):
            return line
        found.append(line)
    try:
        return tagged_record(found)
    except ValueError as error:
        return error


def _record(where: str, line: str) -> Input:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        return ValueError(f"{where}: not a JSON object or list on one line: {error}")
    if isinstance(record, dict | list):
        return where, record
    return ValueError(f"{where}: not a JSON object or list: {line[:60]}")


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _table(path: Path, form: str, has_header: bool) -> Iterator[Input]:
    names: list[str] | range | None = None
    for row in _csv_rows(path) if form == "csv" else _table_rows(path):
        if isinstance(row, ValueError):
            yield row
        elif names is None and has_header:
            names = row[1]
        else:
            names = names or range(len(row[1]))
            yield _named(*row, names)


def _named(where: str, row: list[str], names: list[str] | range) -> Input:
    if len(row) != len(names):
        own = row[0] if names[0] == "id" else None
        return UnreadableRow(f"{where}: has {len(row)} columns instead of {len(names)}", own)
    return where, dict(zip(names, row, strict=True))


def _table_rows(path: Path) -> Iterator[tuple[str, list[str]] | ValueError]:
    for line in _lines(path):
        yield line if isinstance(line, ValueError) else (line[0], line[1].split("\t"))


def _csv_rows(path: Path) -> Iterator[tuple[str, list[str]] | ValueError]:
    """Yield the rows of a CSV file. What is not UTF-8 in them becomes lone surrogates, which no text may contain."""
    csv.field_size_limit(1 << 30)  # characters; the default is 131,072
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            rows = csv.reader(file, strict=True)
            while True:
                try:
                    row = next(rows)
                except StopIteration:
                    return
                except csv.Error as error:
                    yield ValueError(f"{path}:{rows.line_num}: not CSV: {error}")
                    continue
                if row:
                    yield f"{path}:{rows.line_num}", row
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
