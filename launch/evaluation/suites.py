"""Benchmarks of several tasks: which tasks are on this disk, published rows, limits on size and speed."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PositiveInt

from launch.command_line.config_file import read_strictly
from launch.evaluation.config import read_task_file
from pretrain.settings import Settings
from tasks.config import TaskConfig
from tasks.kinds.record_files import task_files

SUITE_FOLDER = Path(__file__).resolve().parents[2] / "configs/suites"
BASE = "BERT-base (12 x 768, random weights)"  # the name of the model that limits of time are relative to
Score = Annotated[float, Field(ge=0, le=100)]  # in hundredths


class Limits(Settings):
    """The largest model that may take part."""

    num_parameters: PositiveInt
    share_of_base_time: Annotated[float, Field(gt=0)]  # of BERT-base's time for a text


class PublishedRow(Settings):
    """The scores of a model that others have published."""

    model: str
    average: Score | None = None  # over all tasks of the suite
    scores: Annotated[dict[str, Score], Field(default_factory=dict)]  # by task
    source: str


class Suite(Settings):
    """A benchmark: the plain average over its tasks."""

    about: str
    tasks: tuple[str, ...]  # names of files in configs/tasks
    limits: Limits | None = None
    files: Annotated[dict[str, str], Field(default_factory=dict)]  # by task the name of its file in a submission
    num_answers: Annotated[dict[str, int], Field(default_factory=dict)]  # by task the number of answers in that file
    published: tuple[PublishedRow, ...] = ()


def suite_names() -> list[str]:
    """Return the names of the suites."""
    return sorted(path.stem for path in SUITE_FOLDER.glob("*.json"))


def read_suite(name: str) -> Suite:
    """Read a suite by its name. Raise ValueError if there is none."""
    path = SUITE_FOLDER / f"{name}.json"
    if not path.is_file():
        raise ValueError(f"--suite {name}: no such suite; there are {', '.join(suite_names())}")
    return read_strictly(Suite, path)


def find_tasks(
    names: Sequence[str], data: Path | None, flag: str = "--suite"
) -> tuple[dict[str, TaskConfig], list[str]]:
    """Return the tasks whose files are on this disk, and a sentence on each of the others.

    Args:
        data: a folder of TASK/FILE to look in for the files of configs/tasks, as .json or .jsonl; None for where those
            say that they are.
    """
    found: dict[str, TaskConfig] = {}
    missing = []
    for name in names:
        task = read_task_file(name, flag)
        task = task if data is None else _placed(task, data)
        if gone := [path for path in (task.train, task.dev) if not _is_there(path)]:
            missing.append(f"{task.name} is not on this disk: there is no {gone[0]}")
        else:
            found[task.name] = task
    return found, missing


def file_to_predict(task: TaskConfig) -> Path | None:
    """Return the file of a task to predict for a submission, beside its training file; None if there is none."""
    names = ("test1.1.json", "test.json", "test.jsonl", "test.tsv", "test1.0.json")
    return next((path for name in names if (path := Path(task.train).parent / name).is_file()), None)


def _placed(task: TaskConfig, data: Path) -> TaskConfig:
    files = {}
    for part in ("train", "dev"):
        path = data / task.name / Path(getattr(task, part)).name
        lines = path.with_suffix(".jsonl")
        files[part] = str(lines if not _is_there(str(path)) and _is_there(str(lines)) else path)
    return task.model_copy(update=files)


def _is_there(pattern: str) -> bool:
    try:
        return all(path.is_file() for path in task_files(pattern))
    except ValueError:
        return False


def render_suite(
    name: str,
    suite: Suite,
    scores: Mapping[str, Mapping[str, float]],
    costs: Mapping[str, Mapping[str, float]],
    missing: Sequence[str],
) -> str:
    """Return a Markdown table of own and published scores, and whether the own models keep the limits.

    Args:
        scores: by model and task, between 0 and 1; every model has the same tasks.
        costs: by model, and of BASE where the suite has limits, as pretrain.probes.cost.compare_cost returns them.
        missing: sentences on tasks that are not there.
    """
    tasks = list(next(iter(scores.values())))
    is_whole = set(tasks) == set(suite.tasks)
    rows = [
        [
            f"**{model}**",
            *(f"{100 * own[task]:.2f}" for task in tasks),
            f"{100 * statistics.fmean(own.values()):.2f}",
            "here",
        ]
        for model, own in scores.items()
    ]
    rows += [_published(row, tasks, is_whole) for row in suite.published]
    head = [name, *tasks, "average", "source"]
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
    said = [suite.about]
    if missing:
        said.append(f"Averages are over the tasks that are here: {'; '.join(missing)}.")
    if suite.limits and BASE in costs:
        said += [_limits(model, suite.limits, costs) for model in scores]
    return "\n".join([*lines, "", " ".join(said), ""])


def _published(row: PublishedRow, tasks: Sequence[str], is_whole: bool) -> list[str]:
    own = [row.scores.get(task) for task in tasks]
    known = [score for score in own if score is not None]
    average = row.average if is_whole and row.average is not None else None
    if average is None and known and len(known) == len(tasks):
        average = statistics.fmean(known)
    cells = ["" if score is None else f"{score:.2f}" for score in (*own, average)]
    if average is None and row.average is not None:
        cells[-1] = f"{row.average:.2f} over all tasks"
    return [row.model, *cells, row.source]


def _limits(model: str, limits: Limits, costs: Mapping[str, Mapping[str, float]]) -> str:
    """Return a sentence on whether a model keeps the limits."""
    own, base = costs[model], costs[BASE]
    share = own["milliseconds_per_text"] / base["milliseconds_per_text"]
    faults = []
    if own["num_parameters"] > limits.num_parameters:
        faults.append("too large")
    if share > limits.share_of_base_time:
        faults.append("too slow")
    size = f"{own['num_parameters'] / 1e6:.1f} of {limits.num_parameters / 1e6:g} million parameters"
    time = f"{share:.3f} of {limits.share_of_base_time:g} of the time of {BASE}"
    return f"{model} {'is ' + ' and '.join(faults) if faults else 'keeps the limits'}: {size}, {time}."


def suite_scores(results: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return the mean scores by model and task of an evaluation's results."""
    return {one["name"]: {name: task["mean"] for name, task in one["tasks"].items()} for one in results["models"]}
