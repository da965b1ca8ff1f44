"""The report in short, for a terminal: the verdict, the models side by side, one search."""

from collections.abc import Mapping, Sequence
from textwrap import fill, indent
from typing import Any

from launch.command_line.wording import shorten
from launch.reports.page import COLUMNS

_SHOWN = {  # columns of the page, under titles that leave them side by side
    "num_parameters": "parameters, M",
    "file_megabytes": "MB on disk",
    "texts_per_second": "texts/s",
    "accuracy": "neighbours, %",
    "retrieval": "title finds text, %",
    "asymmetric": "the teacher's, %",
    "similarity_auc": "pairs, AUC %",
}
_TITLE_CHARACTERS = 32  # of two columns each, they and a model's name fit a line of 80


def render_screen(report: Mapping[str, Any], num_queries: int = 2) -> str:
    """Return the lines to print at the end of a report."""
    lines: list[str] = []
    for verdict in report["verdicts"]:
        lines += [verdict["headline"], *map(_wrap, verdict["details"]), ""]
    lines += _table(report["models"])
    for one in report["search"][:num_queries]:
        lines += ["", f"search for {one['query']}", *_found(one["found"])]
    return "\n".join(lines)


def _wrap(detail: str) -> str:
    """Indented, in lines of at most 100 characters; a number stays with its error."""
    lines = fill(detail.replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}"), 98)
    return indent(lines.replace("\N{NO-BREAK SPACE}", " "), "  ")


def _table(models: Sequence[Mapping[str, Any]]) -> list[str]:
    columns = [column for column in COLUMNS if column.key in _SHOWN and any(column.key in model for model in models)]
    rows = [["", *(_SHOWN[column.key] for column in columns)]]
    rows += [[model["name"], *(column.show(model) for column in columns)] for model in models]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _found(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    width, lines = max(map(len, found)), []
    for name, results in found.items():
        for number, result in enumerate(results, 1):
            shown = shorten(result["title"], _TITLE_CHARACTERS) + (" ✓" if result["is_own"] else "")
            lines.append(f"  {name if number == 1 else '':<{width}}  {number}. {shown}")
    return lines
