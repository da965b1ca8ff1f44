"""The plot of an evaluation: every model, task by task."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.ticker import LogFormatter

from launch.reports.style import COLOURS, STYLE


def draw_scores(results: Mapping[str, Any], path: Path) -> None:
    """PNG of the average score against milliseconds a text, the spread over seeds as bars."""
    places = [(model["milliseconds_per_text"], 100 * model["average"]["mean"]) for model in results["models"]]
    num_tasks = len(results["tasks"])
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.4, 4.0), dpi=150)
        for index, (model, (x, y)) in enumerate(zip(results["models"], places, strict=True)):
            error = 100 * (model["average"]["std"] or 0)
            axes.errorbar(x, y, error, fmt="o", ms=6, capsize=3, color=COLOURS[index % len(COLOURS)])
        low, high = axes.get_ylim()
        heights = label_heights(places, (high - low) / 25)
        for model, (x, _), y in zip(results["models"], places, heights, strict=True):
            axes.annotate(model["name"], (x, y), xytext=(9, 0), textcoords="offset points", va="center", fontsize=8)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(LogFormatter())  # 20, not 2 x 10^1
        axes.xaxis.set_minor_formatter(LogFormatter())
        axes.margins(x=0.25)
        axes.set_xlabel("milliseconds a text, one CPU thread")
        axes.set_ylabel(f"average score, {num_tasks} task{'s' if num_tasks > 1 else ''}")
        figure.savefig(path, bbox_inches="tight")
        plt.close(figure)


def label_heights(places: Sequence[tuple[float, float]], apart: float) -> list[float]:
    """Heights of labels beside points (x, y): theirs, or as far below the next higher one as wanted where those of
    points of like latency would lie on each other."""
    heights = [y for _, y in places]
    order = sorted(range(len(places)), key=lambda index: -places[index][1])
    for number, index in enumerate(order):
        for above in order[:number]:
            if 2 / 3 < places[index][0] / places[above][0] < 3 / 2:
                heights[index] = min(heights[index], heights[above] - apart)
    return heights
