"""The report's charts: matplotlib figures as SVG text, small enough to be read on a phone."""

import io
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib

from launch.reports.exported import Form, pareto_front
from launch.reports.style import COLOURS, STYLE

matplotlib.use("svg")

from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from launch.reports.run import Run

_MARKERS = "osD^vP"  # of the forms of a model: the first is torch's


def draw_svg(figure: Any) -> str:
    """The figure as SVG text; the figure is closed."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    return buffer.getvalue()


def plain_number(value: float, _: object) -> str:
    """A tick's label: thousands set apart, small values without an exponent where short."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


def draw_lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    y_label: str,
    *,
    log_y: bool = False,
    teacher: float | None = None,
) -> str:
    """SVG of `{label: (steps, values)}` over training steps, the first line boldest, empty ones left out.

    What the teacher reaches is a dashed line.
    """
    shown = {label: points for label, points in series.items() if points[0]}
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(5.2, 3.2))
        for i, (label, (steps, values)) in enumerate(shown.items()):
            look: dict[str, Any] = {
                "color": COLOURS[i % len(COLOURS)],
                "ls": "-" if i < len(COLOURS) else "--",
            }
            look |= {"lw": 1.8 if i == 0 else 1.1, "marker": "o" if len(steps) == 1 else None}
            axes.plot(steps, values, label=label, **look)
        if teacher is not None:
            axes.axhline(teacher, color="#5f6368", lw=1.2, ls="--", label="teacher")
        axes.set_xlabel("optimizer step")
        axes.set_ylabel(y_label)
        if log_y and all(value > 0 for _, values in shown.values() for value in values):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            axes.set_ylim(bottom=0)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(plain_number))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(shown) + (teacher is not None) > 1:
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3)
        return draw_svg(figure)


def draw_accuracy(models: Sequence[Mapping[str, Any]], chance: float) -> str:
    """SVG of each model's accuracy, in percent, with its standard error, and the line of chance."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(5.2, 0.9 + 0.4 * len(models)))
        for i, model in enumerate(models):
            percent, error = 100 * model["accuracy"], 100 * model["standard_error"]
            axes.errorbar(percent, i, xerr=error, fmt="o", color=COLOURS[i % len(COLOURS)], capsize=3, lw=1.5)
        axes.axvline(100 * chance, color="#9aa0a6", lw=1, ls="--")
        axes.annotate("chance", (100 * chance, -0.45), xytext=(3, 0), textcoords="offset points", color="#5f6368")
        axes.set_yticks(range(len(models)), [model["name"] for model in models])
        axes.set_ylim(len(models) - 0.4, -0.6)
        axes.set_xlabel("nearest-neighbour accuracy, %")
        axes.grid(axis="y", visible=False)
        return draw_svg(figure)


def draw_forms(forms: Sequence[Form]) -> list[tuple[str, str]]:
    """(caption, SVG) of the exported forms' score against latency and size, the best trade-offs joined by a line.

    A model has a colour and a form a marker.
    """
    if not forms:
        return []
    latency, size = [form.milliseconds for form in forms], [form.megabytes for form in forms]
    tokens = f"milliseconds a text of {forms[0].num_tokens} tokens, one CPU thread"
    return [
        ("Exported forms: score against latency", _draw_trade_off(forms, latency, tokens)),
        ("Exported forms: score against size", _draw_trade_off(forms, size, "MB on disk")),
    ]


def _draw_trade_off(forms: Sequence[Form], costs: Sequence[float], x_label: str) -> str:
    points = [(cost, form.score) for cost, form in zip(costs, forms, strict=True)]
    front = [points[index] for index in pareto_front(points)]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(5.2, 3.2))
        axes.plot(*zip(*front, strict=True), color="#9aa0a6", lw=1.2, zorder=1)
        colours = dict(zip(dict.fromkeys(form.model for form in forms), cycle(COLOURS)))
        markers = dict(zip(dict.fromkeys(form.kind for form in forms), cycle(_MARKERS)))
        for form, (x, y) in zip(forms, points, strict=True):
            axes.scatter(x, y, color=colours[form.model], marker=markers[form.kind], zorder=2, alpha=0.85)
        named = [*((name, "o", colour) for name, colour in colours.items()),
                 *((name, marker, "#9aa0a6") for name, marker in markers.items())]  # fmt: skip
        for name, marker, colour in named:
            axes.scatter([], [], color=colour, marker=marker, label=name)
        axes.set_xlabel(x_label)
        axes.set_ylabel(f"{forms[0].measured.partition(' on ')[0]}, %")
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(plain_number))
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
        return draw_svg(figure)


def draw_run(run: Run) -> list[tuple[str, str]]:
    """(caption, SVG) of every chart of a run: its probe, losses of each student, learning rate, throughput."""
    charts = draw_probe(run)
    for student in run.students:
        terms = {name: run.series(f"{student}/{name}") for name in run.loss_terms(student)}
        if any(steps for steps, _ in terms.values()):
            charts.append((f"Training loss of {student} and its terms", draw_lines(terms, "loss", log_y=True)))
    rates = {student: run.series(f"{student}/learning_rate") for student in run.students}
    if any(steps for steps, _ in rates.values()):
        charts.append(("Learning rate", draw_lines(rates, "learning rate")))
    speed = {"tokens": run.series("tokens_per_second")}
    if speed["tokens"][0]:
        charts.append(("Training speed", draw_lines(speed, "tokens per second")))
    return charts


def draw_probe(run: Run) -> list[tuple[str, str]]:
    """(caption, SVG) of what the probe gave while the students trained: what it measured, nothing else."""
    accuracy, losses = (
        {student: run.series(f"{student}/probe/{name}") for student in run.students}
        for name in ("neighbour_accuracy", "heldout_relation_loss")
    )
    charts = []
    if any(steps for steps, _ in accuracy.values()):
        percent = {student: (steps, [100 * value for value in values]) for student, (steps, values) in accuracy.items()}
        teacher = None if run.teacher_accuracy is None else 100 * run.teacher_accuracy
        svg = draw_lines(percent, "nearest-neighbour accuracy, %", teacher=teacher)
        charts.append(("Neighbour accuracy while training, by the run's own probe", svg))
    for name, title in (("retrieval", "Titles that find their text"),
                        ("asymmetric_retrieval", "Titles that find the teacher's vector of their text"),
                        ("similarity_auc", "Area under the curve of similar pairs")):  # fmt: skip
        scores = {student: run.series(f"{student}/probe/{name}") for student in run.students}
        if any(steps for steps, _ in scores.values()):
            shares = {
                student: (steps, [100 * value for value in values]) for student, (steps, values) in scores.items()
            }
            charts.append((f"{title} while training", draw_lines(shares, "%")))
    if any(steps for steps, _ in losses.values()):
        charts.append(("Held-out relation loss while training", draw_lines(losses, "QQ + KK + VV", log_y=True)))
    return charts
