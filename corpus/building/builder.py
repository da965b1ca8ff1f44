"""Raw files to a finished corpus: plan, read every unit, compare them all, encode every unit, account for all.

Work lies in `<output>.partial` until the corpus is whole; a build that was stopped goes on from there. The steps are
separate functions, so that a batch scheduler can run them as commands; `build_corpus` runs them all.
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
from corpus.building.work_folder import clear, explain_full_disk, hold, remove, work_folder
from corpus.building.workers import Step
from corpus.config import BuildConfig, SourceSettings
from corpus.durable import sync_folder
from corpus.progress import progress
from corpus.shards.manifest import (
    FILE_NAME,
    Manifest,
    SourceRecord,
    TestRecord,
    build_tokenizer_record,
    load_manifest,
    save_manifest,
)
from corpus.vocabulary.tokenizer import UnequalIds, load_tokenizer
from corpus.vocabulary.word_planes import check_segmenter

# What runs the units: processes of this machine, or tasks of a Ray cluster
Engine = Literal["processes", "ray"]

_OURS = re.compile(r"(lock|plan\.jsonl?|matched|corpus|(read|encoded)-\d+)(\..*partial)?")


def build_corpus(
    config: BuildConfig, num_workers: int | None = None, engine: Engine = "processes"
) -> tuple[Manifest, bool]:
    """Builds the corpus of a configuration; its manifest, and whether it was built now or was there already.

    The manifest is the same for every number of workers (all cores unless told), for both engines, and however often
    the build was killed before. Nothing stands in the output folder until all of it does. Raises ValueError for
    inputs, tokenizers and outputs that cannot be used; an output folder that holds another build is never touched.
    """
    plan, manifest = _plan(config)
    if manifest:
        return manifest, False
    work = work_folder(config)
    with explain_full_disk(work), _begun(work):
        if manifest := _built_meanwhile(plan, work):
            return manifest, False
        plan = _keep(plan, work)
        run = functools.partial(_run, work=work, num_workers=num_workers, engine=engine)
        for leftover in work.glob("*.partial"):  # of a build or a step that was killed: nobody else works here now
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
    """The same plan by the tokenizer alone: what other units were encoded to counts no more."""
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
    """Plans a build in its work folder; the manifest too if the output holds this corpus already."""
    plan, manifest = _plan(config)
    work = work_folder(config)
    if manifest is None:
        with explain_full_disk(work), _begun(work):
            manifest = _built_meanwhile(plan, work)
            plan = plan if manifest else _keep(plan, work)
    return plan, manifest


def _plan(config: BuildConfig) -> tuple[Plan, Manifest | None]:
    """The plan, written nowhere yet; the manifest too if the output holds this corpus already."""
    _check_outside_inputs(config)
    tokenizer = load_tokenizer(config.tokenizer)
    if config.whole_words:
        check_segmenter()
    with progress("finding the inputs"):
        plan = build_plan(config, build_tokenizer_record(config.tokenizer, tokenizer))
    output, work = Path(config.output), work_folder(config)
    foreign = [path.name for path in work.iterdir() if not _OURS.fullmatch(path.name)] if work.exists() else []
    if _is_used(output):
        manifest = _existing(plan, output)
        if work.exists() and not foreign:
            # Of a build that was killed after its last step; one that still runs removes its own.
            with suppress(ValueError), hold(work):
                clear(work)
        return plan, manifest
    if foreign:
        raise ValueError(f"{work}: is needed for building, but holds other files: {', '.join(foreign[:3])}")
    return plan, None


def _is_used(output: Path) -> bool:
    return output.exists() and (not output.is_dir() or any(output.iterdir()))


def _built_meanwhile(plan: Plan, work: Path) -> Manifest | None:
    """What another process finished after the output was looked at and before the lock was ours."""
    if not _is_used(Path(plan.config.output)):
        return None
    manifest = _existing(plan, Path(plan.config.output))
    clear(work)
    return manifest


def _check_outside_inputs(config: BuildConfig) -> None:
    """ValueError where a build would find its own files among its inputs when it goes on."""
    folders = [Path(item) for source in (*config.sources, *config.decontamination) for item in source.inputs]
    for folder in filter(Path.is_dir, folders):
        for ours in (Path(config.output), work_folder(config)):
            if ours.resolve().is_relative_to(folder.resolve()):
                raise ValueError(f"{ours}: lies inside the input {folder}; choose another output folder")


def _keep(plan: Plan, work: Path) -> Plan:
    """Saves a plan. One that is there and has only given up the fast path besides is kept: units were done by it."""
    with suppress(ValueError):
        there = load_plan(work)
        if there.model_copy(update={"fast_tokenizing": True}) == plan:
            return there
    save_plan(plan, work)
    return plan


@contextmanager
def _begun(work: Path) -> Iterator[None]:
    """The work folder, made if it is not there, for this process alone."""
    work.mkdir(parents=True, exist_ok=True)
    with hold(work):
        yield


@contextmanager
def _planned(
    config: BuildConfig, shared: bool = False, only: Collection[int] | None = None
) -> Iterator[tuple[Plan, Path]]:
    """The plan that was made for this configuration, with these units alone, and its work folder, held meanwhile."""
    work = work_folder(config)
    with explain_full_disk(work), hold(work, shared):
        plan = load_plan(work, only)
        if plan.config != config:
            raise ValueError(f"{work}: was planned for another configuration; run --plan again")
        yield plan, work


def run_unit(config: BuildConfig, step: Step, index: int, every: int | None = None) -> int:
    """A step of one unit of the planned build, or of every so many from it on: what a job of a scheduler's array does.

    How many units that were. Raises ValueError where a build, not a step of units, runs at the same time.
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
    """Compares the documents of all units, which must be read."""
    with _planned(config) as (plan, work):
        match_units(plan, work)


def finish_corpus(config: BuildConfig) -> Manifest:
    """Puts the encoded units together and the corpus in its place, unless it is there: a scheduler may ask twice.

    Raises ValueError if a unit is not encoded yet, if no document survived, or if others work here.
    """
    if _is_used(Path(config.output)) and (manifest := _plan(config)[1]):
        return manifest
    with _planned(config) as (plan, work):
        return _built_meanwhile(plan, work) or _finish(plan, work)


def _finish(plan: Plan, work: Path) -> Manifest:
    """The corpus in its place. What it was made from goes last, when it is known to be whole."""
    output, folder = Path(plan.config.output), work / "corpus"
    match_units(plan, work)  # done before; if it was of other units, theirs are not encoded
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with progress("putting the units together"):
        save_manifest(build_manifest(plan, work, folder), folder)
        load_manifest(folder)
    folder.rename(output)
    sync_folder(output.parent)
    manifest = load_manifest(output)
    clear(work)
    return manifest


def _existing(plan: Plan, output: Path) -> Manifest:
    """The manifest of an output folder that holds just this build; the inputs are read again to know."""
    if not (output / FILE_NAME).is_file():
        raise ValueError(f"{output}: is not empty and holds no corpus; choose another output folder")
    manifest = load_manifest(output)
    refusal = f"{output}: holds another corpus ({{}}); remove it or choose another output folder"
    if manifest.tokenizer.fingerprint != plan.tokenizer.fingerprint:
        raise ValueError(refusal.format("its tokenizer differs"))
    wanted, there = (
        (_settings(of.sources), _settings(of.decontamination), of.near_duplicates) for of in (plan.config, manifest)
    )
    if wanted != there or plan.config.whole_words != manifest.has_word_planes:
        raise ValueError(refusal.format("its sources or their settings differ"))
    inputs = [
        [segment for unit in plan.units if unit.source == index for segment in unit.segments]
        for index in range(len(plan.config.sources))
    ]
    with progress("comparing the inputs with the corpus that is there", _num_bytes(plan), "B") as shown:
        records: list[SourceRecord | TestRecord] = [*manifest.sources, *manifest.decontamination]
        for record, segments in zip(records, [*inputs, *plan.tests], strict=True):
            if read_inputs(segments, shown.update) != record.inputs:
                raise ValueError(refusal.format(f"the inputs of {record.name} have changed"))
    return manifest


def _settings(sources: Iterable[SourceSettings]) -> list[SourceSettings]:
    """What a configuration and a manifest both say of sources."""
    return [SourceSettings(**source.model_dump(include=set(SourceSettings.model_fields))) for source in sources]
