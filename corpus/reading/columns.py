"""Rows of CSV and TSV files: fields in quotes may hold separators, newlines and doubled quotes (RFC 4180)."""

import csv
from collections.abc import Iterable, Iterator
from itertools import chain

from corpus.reading.bad_input import BadInput
from corpus.reading.lines import MAX_LINE_BYTES

SEPARATORS = {"csv": ",", "tsv": "\t"}
_NO_END = ("unexpected end of data", "field larger than field limit")
_MAX_TSV_LINES = 1000  # of a row
csv.field_size_limit(MAX_LINE_BYTES)

Line = tuple[int, bytes]


def read_rows(lines: Iterable[Line], name: str, format: str) -> Iterator[tuple[int, list[bytes]]]:
    """Yield the rows that are not blank with the number of their first line; no fields for a row that is broken.

    Quotes, commas and tabs are part of no character in UTF-8, GB18030 and Big5, so fields are bytes still. Most TSV is
    written without quoting, so a quote there is an ordinary character unless all its row is written as in CSV.

    Raises BadInput for a field of CSV whose closing quote is missing.
    """
    return _read_tsv(iter(lines)) if format == "tsv" else _read_csv(iter(lines), name)


def _read_csv(lines: Iterator[Line], name: str) -> Iterator[tuple[int, list[bytes]]]:
    taken: list[Line] = []
    reader = _reader(lines, taken, "csv")
    while True:
        taken.clear()
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if str(error).startswith(_NO_END):
                reason = f"a field in quotes at or after line {taken[0][0]} has no closing quote"
                raise BadInput(name, reason) from error
            yield taken[0][0], []
            continue
        if row:
            yield taken[0][0], _as_bytes(row)


def _read_tsv(lines: Iterator[Line]) -> Iterator[tuple[int, list[bytes]]]:
    width = 0
    while (line := next(lines, None)) is not None:
        number, text = line
        row = text.rstrip(b"\r").split(b"\t")
        if any(field.startswith(b'"') for field in row):
            taken: list[Line] = []
            try:
                quoted = _as_bytes(next(_reader(chain([line], lines), taken, "tsv")))
            except csv.Error:
                quoted = []
            if quoted and len(quoted) == (width or len(quoted)):
                row = quoted
            else:
                lines = chain(taken[1:], lines)
        if row != [b""]:
            width = width or len(row)
            yield number, row


def _reader(lines: Iterator[Line], taken: list[Line], format: str) -> Iterator[list[str]]:
    """A reader of rows, which puts the lines that it takes into a list."""

    def texts() -> Iterator[str]:
        for number, line in lines:
            taken.append((number, line))
            yield line.decode("latin-1") + "\n"
            if format == "tsv" and len(taken) == _MAX_TSV_LINES:
                return

    return csv.reader(texts(), delimiter=SEPARATORS[format], strict=True)


def _as_bytes(row: list[str]) -> list[bytes]:
    return [field.encode("latin-1") for field in row]
