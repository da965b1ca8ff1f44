"""Fit a law of the held-out loss and the kept score to finished runs, for `gd.py --plan --law FILE`.

    python bench/law/fit.py runs/short-* --law runs/law.json --record runs.json
    python bench/law/fit.py runs.json --law runs/law.json [--unseen runs/long] [--plot law.png]

Runs share teacher, corpus, objectives and the rest of their configuration; their students differ in sizes and the runs
in `training.total_steps`, with the schedule ending there, and have `probe.heldout`. What it prints is a table of every
point beside what the law without this point says, and of the students that it was not fitted on.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a script: these folders win over any installed package of the same name
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from matplotlib import pyplot as plt

from launch.planning.fitting import Point, fit_law
from launch.planning.law import Curve, Law
from launch.planning.points import Record, join_records, read_record
from launch.reports.style import COLOURS, STYLE
from pretrain.durable import write_durably

HEAD = (
    "| run | student | parameters in layers | tokens | loss | predicted | off by | kept | predicted |\n"
    + "|---" * 9
    + "|"
)


def describe(point: Point, loss: float, kept: float | None, of_loss: str = "", of_kept: str = "") -> str:
    """Return a row of the table."""
    off = math.log(point.loss / loss)
    scores = f"{point.kept:.3f} | {kept:.3f}{of_kept}" if point.kept is not None and kept is not None else " | "
    return (
        f"| {point.run} | {point.student} | {point.parameters:,} | {point.tokens:,} | {point.loss:.4f} | "
        f"{loss:.4f}{of_loss} | {off:+.1%} | {scores} |"
    )


def left_out(point: Point, curve: Curve) -> str:
    """Return a row of a point and of the curve that was fitted without it."""
    loss = curve.loss(point.parameters, point.tokens)
    return describe(point, loss, curve.kept_score(loss) if curve.kept else None)


def unseen(point: Point, law: Law) -> str:
    """Return a row of a point that the law was not fitted on, with the errors that it states."""
    loss, kept = law.loss(point.parameters, point.tokens), law.kept_score(point.parameters, point.tokens)
    of_kept = f" ± {kept.error:.3f}" if kept else ""
    return describe(point, loss.value, kept.value if kept else None, f" ± {loss.error:.4f}", of_kept)


def draw(points: Sequence[Point], others: Sequence[Point], law: Law, path: Path) -> None:
    """Plot measured losses over tokens, a colour a size, the law as lines; what it has not seen as stars."""
    sizes = sorted({one.parameters for one in [*points, *others]})
    most = max(one.tokens for one in [*points, *others])
    lengths = [law.tokens[0] * (most / law.tokens[0]) ** (i / 50) for i in range(51)]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.4, 4.0), dpi=150)
        for index, size in enumerate(sizes):
            colour = COLOURS[index % len(COLOURS)]
            axes.plot(lengths, [law.curve.loss(size, tokens) for tokens in lengths], color=colour, lw=1.1)
            for marker, measured in (("o", points), ("*", others)):
                own = [one for one in measured if one.parameters == size]
                name = f"{size / 1e6:.2f}M" + (", not fitted" if marker == "*" else "")
                if own:
                    places = [one.tokens for one in own], [one.loss for one in own]
                    axes.scatter(*places, color=colour, marker=marker, s=90 if marker == "*" else 25, label=name)
        axes.set_xscale("log")
        axes.set_xlabel("tokens")
        axes.set_ylabel("held-out relation loss")
        axes.legend(title="parameters in layers", fontsize=8)
        figure.savefig(path, bbox_inches="tight", metadata={"Software": None})
        plt.close(figure)


def main() -> None:
    """Read, fit, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs, or what --record wrote")
    parser.add_argument("--law", type=Path, required=True, help="file to write")
    parser.add_argument("--about", default="", help="a sentence for people, kept in the law")
    parser.add_argument("--record", type=Path, help="file for the points, to fit again without the run folders")
    parser.add_argument("--unseen", type=Path, nargs="+", default=[], help="runs to predict, not to fit")
    parser.add_argument("--plot", type=Path, help="PNG of losses over tokens")
    options = parser.parse_args()
    try:
        record = join_records([(path, read_record(path)) for path in options.runs])
        known = options.runs[0], record
        others = [point for path in options.unseen for point in _compatible(known, path)]
        law = fit_law(record.setting, record.points, options.about)
    except ValueError as error:
        parser.exit(2, f"error: {error}\n")
    for path, written in ((options.law, law), (options.record, record)):
        if path:
            write_durably(path, written.model_dump_json(indent=2) + "\n")
    print(f"error of one run, left out: loss {law.loss_error:.1%}", law.curve, sep="\n", end="\n\n")
    print(HEAD)
    print("\n".join(left_out(*pair) for pair in zip(record.points, law.without, strict=True)))
    if others:
        print("\n".join(["", "not fitted", "", HEAD, *(unseen(one, law) for one in others)]))
    if options.plot:
        draw(record.points, others, law, options.plot)


def _compatible(known: tuple[Path, Record], path: Path) -> list[Point]:
    """Return the points of a file or run, checked to be of the same setting."""
    record = read_record(path)
    join_records([known, (path, record)])
    return record.points


if __name__ == "__main__":
    main()
