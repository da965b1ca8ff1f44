"""Build a corpus from raw files: plan, read every unit, match (find duplicates), encode every unit, join.

Unfinished work is kept in `<output>.partial`; a build that was stopped continues from there. The steps are separate
functions, so that a batch scheduler can run them as commands; `build_corpus` runs all of them.
"""

import functools
import re
import shutil
import warnings
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from corpus.building import ray_workers, workers
from corpus.building.encode_step import encode_unit
from corpus.building.join_step import build_manifest, read_inputs
from corpus.building.match_step import match_units
from corpus.building.plan import Plan, build_plan, load_plan, save_plan
from corpus.building.read_step import read_unit
from corpus.building.work_folder import clear, explain_full_disk, lock_folder, remove, work_folder
from corpus.building.workers import Step
from corpus.config import BuildConfig, SourceSettings
from corpus.durable import sync_folder
from corpus.progress import progress
from corpus.reading.parts import would_contain
from corpus.shards.manifest import (
    FILE_NAME,
    Manifest,
    SourceRecord,
    TestRecord,
    build_tokenizer_record,
    load_manifest,
    save_manifest,
)
from corpus.vocabulary.pieces import warn_of_vocabulary
from corpus.vocabulary.tokenizer import UnequalIds, load_tokenizer
from corpus.vocabulary.word_planes import check_segmenter

# What runs the units: worker processes on this machine, or tasks of a Ray cluster
Engine = Literal["processes", "ray"]

_OURS = re.compile(r"(lock|plan\.jsonl?|matched|corpus|(read|encoded)-[0-9a-f]+)(\..*partial)?")


def build_corpus(
    config: BuildConfig, num_workers: int | None = None, engine: Engine = "processes"
) -> tuple[Manifest, bool]:
    """Build the corpus of a configuration, or continue a build that was stopped.

    Args:
        config: from `load_config`.
        num_workers: units at the same time; by default as many as there are cores.
        engine: "processes" on this machine, or a "ray" cluster.

    Returns:
        The manifest, and whether the corpus was built now (False: the output folder held this corpus already).

    The corpus is the same for any number of workers, for both engines, and after any number of kills. The output folder
    appears only when it is complete. Raises ValueError for inputs, tokenizers and outputs that cannot be used; an
    output folder that holds another corpus is not changed.
    """
    plan, manifest = _plan(config)
    if manifest:
        return manifest, False
    work = work_folder(config)
    with explain_full_disk(work), _own_work_folder(work):
        if manifest := _built_meanwhile(plan, work):
            return manifest, False
        plan = _save_or_reuse(plan, work)
        run = functools.partial(_run, work=work, num_workers=num_workers, engine=engine)
        for leftover in work.glob("*.partial"):  # of a build or step that was killed; the lock keeps others out
            remove(leftover)
        run("reading", read_unit, plan)
        match_units(plan, work)
        try:
            run("encoding", encode_unit, plan)
        except UnequalIds as error:
            plan = _without_fast_path(plan, work, error)
            run("encoding", encode_unit, plan)
        return _finish(plan, work), True


def _without_fast_path(plan: Plan, work: Path, error: UnequalIds) -> Plan:
    """Save the plan without the fast path, which invalidates all units that were encoded with it."""
    warnings.warn(f"{error}; every unit is encoded by the tokenizer itself, which is slower", stacklevel=3)
    plan = plan.model_copy(update={"fast_tokenizing": False})
    save_plan(plan, work)
    return plan


def _run(what: str, step: Step, plan: Plan, *, work: Path, num_workers: int | None, engine: Engine) -> None:
    run_units = ray_workers.run_units if engine == "ray" else workers.run_units
    with progress(what, _num_bytes(plan), "B") as shown:
        run_units(step, plan, work, range(len(plan.units)), num_workers, shown.update)


def _num_bytes(plan: Plan) -> int:
    return sum(unit.num_bytes for unit in plan.units)


def plan_corpus(config: BuildConfig) -> tuple[Plan, Manifest | None]:
    """Plan a build and save the plan in its work folder. Return also the manifest if the corpus is already built."""
    plan, manifest = _plan(config)
    work = work_folder(config)
    if manifest is None:
        with explain_full_disk(work), _own_work_folder(work):
            manifest = _built_meanwhile(plan, work)
            plan = plan if manifest else _save_or_reuse(plan, work)
    return plan, manifest


def _plan(config: BuildConfig) -> tuple[Plan, Manifest | None]:
    """Make the plan without saving it. Return also the manifest if the corpus is already built."""
    _check_outside_inputs(config)
    tokenizer = load_tokenizer(config.tokenizer)
    warn_of_vocabulary(config.tokenizer, tokenizer)
    if config.whole_words:
        check_segmenter()
    with progress("finding the inputs"):
        plan = build_plan(config, build_tokenizer_record(config.tokenizer, tokenizer))
    output, work = Path(config.output), work_folder(config)
    foreign = [path.name for path in work.iterdir() if not _OURS.fullmatch(path.name)] if work.exists() else []
    if _is_used(output):
        manifest = _existing_manifest(plan, output)
        if work.exists() and not foreign:
            # Left by a build that was killed after its last step; a running build removes its folder itself.
            with suppress(ValueError), lock_folder(work):
                clear(work)
        return plan, manifest
    if foreign:
        raise ValueError(f"{work}: is needed for building, but contains other files: {', '.join(foreign[:3])}")
    return plan, None


def _is_used(output: Path) -> bool:
    return output.exists() and (not output.is_dir() or any(output.iterdir()))


def _built_meanwhile(plan: Plan, work: Path) -> Manifest | None:
    """The manifest if another process finished the corpus before this one got the lock."""
    if not _is_used(Path(plan.config.output)):
        return None
    manifest = _existing_manifest(plan, Path(plan.config.output))
    clear(work)
    return manifest


def _check_outside_inputs(config: BuildConfig) -> None:
    """Raise ValueError if output or work folder is inside an input: a continued build would read its own files."""
    inputs = [item for source in (*config.sources, *config.decontamination) for item in source.inputs]
    for item in inputs:
        for ours in (Path(config.output), work_folder(config)):
            if would_contain(item, ours):
                raise ValueError(f"{ours}: is inside the input {item}; choose another output folder")


def _save_or_reuse(plan: Plan, work: Path) -> Plan:
    """Save the plan, unless an earlier one differs only by not using the fast path: its units can be reused."""
    with suppress(ValueError):
        earlier = load_plan(work)
        if earlier.model_copy(update={"fast_tokenizing": True}) == plan:
            return earlier
    save_plan(plan, work)
    return plan


@contextmanager
def _own_work_folder(work: Path) -> Iterator[None]:
    """Make the work folder if it does not exist, and lock it for this process."""
    work.mkdir(parents=True, exist_ok=True)
    with lock_folder(work):
        yield


@contextmanager
def _planned(
    config: BuildConfig, shared: bool = False, only: Collection[int] | None = None
) -> Iterator[tuple[Plan, Path]]:
    """The saved plan of this configuration, with only these units loaded, and its work folder, locked meanwhile."""
    work = work_folder(config)
    with explain_full_disk(work), lock_folder(work, shared):
        plan = load_plan(work, only)
        if plan.config != config:
            raise ValueError(f"{work}: was planned for another configuration; run --plan again")
        yield plan, work


def run_unit(config: BuildConfig, step: Step, index: int, every: int | None = None) -> int:
    """Run a step of a planned build for some units: one job of a batch scheduler's array.

    Args:
        step: `read_unit` or `encode_unit`.
        index: the unit, or the first of several.
        every: run units index, index + every, index + 2 * every, ...

    Returns the number of units that were run. Raises ValueError if there is no plan of this configuration or no such
    unit, or if a whole build runs in the work folder.
    """
    with _planned(config, shared=True, only=()) as (plan, work):
        if every is None and not 0 <= index < len(plan.units):
            raise ValueError(f"there is no unit {index}; the plan has 0 to {len(plan.units) - 1}")
        indexes = [index] if every is None else range(index, len(plan.units), every)
        try:
            for each in indexes:
                unit = load_plan(work, [each])
                with progress(f"{step.__name__.replace('_', ' ')} {each}", _num_bytes(unit), "B") as shown:
                    step(unit, work, each, shown.update)
        except UnequalIds as error:
            _without_fast_path(load_plan(work), work, error)
            raise ValueError(f"{error}; run --encode-unit again for every unit: they now use the tokenizer") from error
    return len(indexes)


def match_corpus(config: BuildConfig) -> None:
    """Find the duplicates among the documents of all units, which must be read. Raise ValueError otherwise."""
    with _planned(config) as (plan, work):
        match_units(plan, work)


def finish_corpus(config: BuildConfig) -> Manifest:
    """Join the encoded units and move the corpus to its output folder. Do nothing if it is already there.

    Raises ValueError if a unit is not encoded yet, if no document is left, or if another process builds here.
    """
    if _is_used(Path(config.output)) and (manifest := _plan(config)[1]):
        return manifest
    with _planned(config) as (plan, work):
        return _built_meanwhile(plan, work) or _finish(plan, work)


def _finish(plan: Plan, work: Path) -> Manifest:
    """Join the units and rename the corpus into place; then remove the work folder."""
    output, folder = Path(plan.config.output), work / "corpus"
    match_units(plan, work)  # usually done; if it was done for other units, encoding is missing and raises below
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with progress("joining the units"):
        save_manifest(build_manifest(plan, work, folder), folder)
        load_manifest(folder)
    folder.rename(output)
    sync_folder(output.parent)
    manifest = load_manifest(output)
    clear(work)
    return manifest


def _existing_manifest(plan: Plan, output: Path) -> Manifest:
    """The manifest of an output folder that holds the planned corpus, for which all inputs are read again.

    Raises ValueError if the folder holds anything else.
    """
    if not (output / FILE_NAME).is_file():
        raise ValueError(f"{output}: is not empty and contains no corpus; choose another output folder")
    manifest = load_manifest(output)
    refusal = f"{output}: holds another corpus ({{}}); remove it or choose another output folder"
    if manifest.tokenizer.fingerprint != plan.tokenizer.fingerprint:
        raise ValueError(refusal.format("its tokenizer differs"))
    wanted, existing = (
        (_settings(of.sources), _settings(of.decontamination), of.near_duplicates) for of in (plan.config, manifest)
    )
    if wanted != existing or plan.config.whole_words != manifest.has_word_planes:
        raise ValueError(refusal.format("its sources or their settings differ"))
    inputs = [
        [segment for unit in plan.units if unit.source == index for segment in unit.segments]
        for index in range(len(plan.config.sources))
    ]
    with progress("comparing the inputs with the existing corpus", _num_bytes(plan), "B") as shown:
        records: list[SourceRecord | TestRecord] = [*manifest.sources, *manifest.decontamination]
        for record, segments in zip(records, [*inputs, *plan.tests], strict=True):
            if read_inputs(segments, shown.update) != record.inputs:
                raise ValueError(refusal.format(f"the inputs of {record.name} have changed"))
    return manifest


def _settings(sources: Iterable[SourceSettings]) -> list[SourceSettings]:
    """The part of source settings that configurations and manifests have in common."""
    return [SourceSettings(**source.model_dump(include=set(SourceSettings.model_fields))) for source in sources]
