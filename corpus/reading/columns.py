"""Rows of CSV and TSV files: fields in quotes may hold separators, newlines and doubled quotes (RFC 4180)."""

import csv
from collections.abc import Iterable, Iterator

from corpus.reading.bad_input import BadInput
from corpus.reading.lines import MAX_LINE_BYTES

SEPARATORS = {"csv": ",", "tsv": "\t"}
_NO_END = ("unexpected end of data", "field larger than field limit")
csv.field_size_limit(MAX_LINE_BYTES)


def read_rows(lines: Iterable[tuple[int, bytes]], name: str, separator: str) -> Iterator[tuple[int, list[bytes]]]:
    """Yield the rows that are not blank with the number of their first line; no fields for a row that is broken.

    Quotes, commas and tabs are part of no character in UTF-8, GB18030 and Big5, so fields are bytes still. In TSV a
    quote inside or around a part of a field is an ordinary character, as most such files are written without quoting.

    Raises BadInput for a field whose closing quote is missing.
    """
    taken: list[tuple[int, bytes]] = []  # the lines of a row

    def texts() -> Iterator[str]:
        for number, line in lines:
            taken.append((number, line))
            yield line.decode("latin-1") + "\n"

    reader = csv.reader(texts(), delimiter=separator, strict=True)
    while True:
        taken.clear()
        try:
            row = [field.encode("latin-1") for field in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            if str(error).startswith(_NO_END):
                reason = f"a field in quotes at or after line {taken[0][0]} has no closing quote"
                raise BadInput(name, reason) from error
            is_tsv = separator == "\t" and len(taken) == 1
            row = taken[0][1].rstrip(b"\r").split(b"\t") if is_tsv else []
        if row or taken[-1][1].strip():
            yield taken[0][0], row
