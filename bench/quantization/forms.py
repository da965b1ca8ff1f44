"""Print one table of all exported forms that bench/quantization/task.sh made.

python -m bench.quantization.forms data/quantization/exported/*
"""

import argparse
from pathlib import Path
from typing import Any

import orjson


def row(student: str, form: str, figures: dict[str, Any]) -> str:
    """Return a line of Markdown."""
    times = " / ".join(f"{one:.1f}" for one in figures["milliseconds"].values())
    changed = "" if form == "torch" else f"{100 * figures['changed']:.1f}"
    return (
        f"| {student} | {form} | {figures['megabytes']:.1f} | {times} | {figures['start_milliseconds']:.0f} | "
        f"{changed} | {100 * figures['score']:.1f} |"
    )


def main() -> None:
    """Print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="what launch/export.py wrote")
    print("| student | form | MB | ms, 16 / 128 / 512 tokens | start, ms | answers changed, % | accuracy |")
    print("|---|---|---|---|---|---|---|")
    for folder in parser.parse_args().folders:
        record = orjson.loads((folder / "export.json").read_bytes())
        for form, figures in record["forms"].items():
            print(row(folder.name, form, figures))


if __name__ == "__main__":
    main()
