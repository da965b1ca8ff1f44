"""One size of an elastic student as a student of its own: its settings, and what the run knows of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from launch.distillation.config import read_run_config
from launch.publishing.model_card import RunRecord
from pretrain.elastic.size import Size
from pretrain.elastic.slices import Cut
from pretrain.models.encoder import HuggingFaceModel


def sizes_of(run: Path, student: str) -> list[Size]:
    """Return the sizes of an elastic student of a run, the largest first; none if it is not elastic."""
    own = next((one for one in read_run_config(run / "config.json").students if one.name == student), None)
    return own.elastic.sizes(Size(own.num_layers, own.intermediate_size)) if own and own.elastic else []


def choose_size(run: Path, student: str, wanted: Size | None) -> Size | None:
    """Return the wanted size, or the largest; None for a student that is not elastic.

    Raise ValueError for a size that the student does not have.
    """
    sizes = sizes_of(run, student)
    if wanted and not sizes:
        raise ValueError(f"{run}: {student} is not elastic and has no size {wanted}: leave out --size")
    if wanted and wanted not in sizes:
        raise ValueError(f"{run}: {student} has no size {wanted}; its sizes: {', '.join(map(str, sizes))}")
    return wanted or (sizes[0] if sizes else None)


def folders_of(run: Path, student: str, output: Path, all_sizes: bool) -> list[tuple[Path, Size | None]]:
    """Return the folders to publish to, each with its size: `output` alone, or one in it for each size.

    Raise ValueError for all sizes of a student that has none, or if `output` is there already.
    """
    if not all_sizes:
        return [(output, None)]
    if not (run / "config.json").is_file():
        raise ValueError(f"{run}: not a run folder (no config.json)")
    if not (sizes := sizes_of(run, student)):
        raise ValueError(f"{run}: has no elastic student {student}: leave out --all-sizes")
    if output.exists():
        raise ValueError(f"{output}: is already there; publish to a new folder")
    return [(output / str(size), size) for size in sizes]


def settings_of(student: Mapping[str, Any], size: Size) -> dict[str, Any]:
    """Return the JSON of a student's settings as that of one of its sizes."""
    return {**student, "num_layers": size.num_layers, "intermediate_size": size.feed_forward}


def record_of(
    record: RunRecord, student: str, sizes: Sequence[Size], size: Size, whole: HuggingFaceModel, cut: HuggingFaceModel
) -> RunRecord:
    """Return what a run knows of one size of a student, as if it were the student.

    Raise ValueError if the size was never trained.

    Args:
        sizes: all of the student, the largest first.
        whole, cut: the student's encoder, and that of the size.
    """
    config = {**record.config, "students": list(_students(record.config, student, size))}
    source, unreached = Cut(whole, size).source, set(record.facts["unreached_parameters"][student])
    names = [name for name, _ in cut.named_parameters() if source(name) in unreached]
    metrics = [_line_of(line, student, sizes, size) for line in record.metrics]
    if not any(f"{student}/loss" in line for line in metrics):
        raise ValueError(f"size {size} of {student} was drawn in no logged step; train longer, or sample all sizes")
    facts = {**record.facts, "unreached_parameters": {student: names}}
    return replace(record, config=config, facts=facts, metrics=metrics, sizes=list(map(str, sizes)), size=str(size))


def _students(config: Mapping[str, Any], student: str, size: Size) -> Iterator[dict[str, Any]]:
    for one in config["students"]:
        yield settings_of(one, size) if one["name"] == student else one


def _line_of(line: Mapping[str, float], student: str, sizes: Sequence[Size], size: Size) -> dict[str, float]:
    """Return a line of metrics with those of one size under the names of a student's; the others' left out.

    A student's terms and scores without the name of a size are of its largest one, its loss is the mean of all.
    """
    names, own = set(map(str, sizes)), {}
    for key, value in line.items():
        stem, _, last = key.rpartition("/")
        is_of_whole = last not in names and key != f"{student}/loss"
        if not key.startswith(f"{student}/") or (is_of_whole and size == sizes[0]):
            own[key] = value
        elif last == str(size):
            own[stem] = value
    return own
