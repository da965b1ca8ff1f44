"""The folder of a run: what is refused there, what later readers need, and what says that it is done."""

import json
import re
import shutil
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO, TypeVar

from pydantic import BaseModel, PositiveInt, ValidationError
from transformers import AutoTokenizer

from corpus.manifest import Manifest
from corpus.tokenizer import load_tokenizer, save_tokenizer
from launch.next_command import publish_line
from launch.run_config import RunConfig, changed_keys, read_run_config
from launch.run_facts import ProbeFacts, read_facts, read_ran_on
from pretrain.checkpoint import TrainingState
from pretrain.durable import share, try_lock, write_durably, writing
from pretrain.metrics import read_metrics
from pretrain.outcome import on_rank_zero, raise_together
from pretrain.progress import Progress
from pretrain.settings import Settings
from pretrain.student import Student

AnyConfig = TypeVar("AnyConfig", bound=BaseModel)
# Keys that a rank may have otherwise than rank 0: where its host has things, which are compared themselves.
_PATHS = re.compile(
    r"about|corpus\.(manifest|cache_folder|cache_gigabytes)|teacher\.path|student|(probe\.)?task\.(train|dev)|"
    r"probe\.heldout|stages\.ged\.config|students\.\d+\.init\.student"
)
_held: list[TextIO] = []  # locks, which go with the process


def tokenizer_name(config: RunConfig, manifest: Manifest) -> str:
    """Where the run's tokenizer lies: with the teacher, or where the corpus was built from."""
    return config.teacher.path if config.teacher else manifest.tokenizer.name


def check_run_folder(config: RunConfig, manifest: Manifest | None, run: Path) -> None:
    """Refuse a run folder that another config or, where it is given, another corpus made."""
    if not (run / "config.json").is_file():
        return
    before = read_run_config(run / "config.json").model_dump(mode="json")  # keys that came since have their defaults
    changed = changed_keys(before, config.model_dump(mode="json"))
    if manifest and read_facts(run / "run.json").corpus.fingerprint != manifest.fingerprint:
        changed.append("corpus.manifest (the corpus itself has changed)")
    if changed:
        ways = "Give another --run folder, or the config that began this one"
        if "training.total_steps" in changed:
            ways += "; a run's length belongs to its schedule: to train longer begin a new run with init.student"
        raise ValueError(f"{run}: belongs to another config; different: {', '.join(changed)}. {ways}")


def keep_kernels(config: AnyConfig, run: Path) -> AnyConfig:
    """The configuration with the kernels that the run was begun with, wherever it leaves the choice to us ("auto").

    Another kernel computes the same loss with other rounding. Every rank must call it.
    """

    def fill(now: Any, before: Any) -> Any:
        if isinstance(now, dict) and isinstance(before, dict):
            filled = {key: fill(value, before.get(key)) for key, value in now.items()}
            return filled | ({"kernel": before["kernel"]} if now.get("kernel") == "auto" and "kernel" in before else {})
        if isinstance(now, list) and isinstance(before, list) and len(now) == len(before):
            return [fill(one, other) for one, other in zip(now, before, strict=True)]
        return now

    path = run / "config.json"
    before = on_rank_zero(lambda: json.loads(path.read_text()) if path.is_file() else {})
    return type(config).model_validate_json(json.dumps(fill(config.model_dump(mode="json"), before)))


def check_alike(config: dict[str, Any], inputs: dict[str, Any]) -> None:
    """ValueError on every rank where one was given something else than rank 0: by a command typed on each host, or by
    an older copy on its disk. Where it lies there may differ."""
    first_config, first_inputs = on_rank_zero(lambda: (config, inputs))
    changed = [key for key in changed_keys(first_config, config, may_change=()) if not _PATHS.fullmatch(key)]
    changed += changed_keys(first_inputs, inputs, may_change=())
    raise_together(f"has another {', '.join(changed)} than rank 0" if changed else None)


def is_under_way(run: Path) -> bool:
    """Whether a run was begun here and is not done."""
    return (run / "config.json").is_file() and not (run / "done.json").is_file()


@Progress("waiting for another job to leave the run folder")
def hold_run_folder(run: Path, wait_seconds: float = 30.0) -> None:
    """Keep other jobs out of it as long as this process lives; one that is leaving just now is waited for.

    ValueError where another one stays: a job that lost its launcher, say, or the same command typed twice.
    """
    run.mkdir(parents=True, exist_ok=True)
    file = (run / "lock").open("a")
    end = time.monotonic() + wait_seconds
    try:
        while not try_lock(file):
            if time.monotonic() > end:
                file.close()
                raise ValueError(f"{run}: another job trains there; stop it, or give another --run folder")
            time.sleep(0.2)
    except OSError as error:
        reason = f"its file system has no locks ({error.strerror})"
        warnings.warn(f"{run}: {reason}; see to it that one job trains there", stacklevel=2)
    _held.append(file)


@Progress("waiting for every host to see the run folder")
def check_shared(path: Path, wait_seconds: float = 60.0) -> None:
    """ValueError on every rank where one does not see what rank 0 wrote; a network's file system may take its time."""
    end = time.monotonic() + wait_seconds
    while not path.is_file() and time.monotonic() < end:
        time.sleep(0.2)
    seen = path.is_file()
    raise_together(None if seen else f"{path}: rank 0 wrote it, and it is not here; the run folder must be shared")


def check_teacher(run: Path, teacher_fingerprint: str) -> None:
    """Refuse to go on with other weights than the run began with."""
    if (run / "run.json").is_file():
        before = read_facts(run / "run.json").teacher
        if before and before.fingerprint != teacher_fingerprint:
            raise ValueError(f"teacher.path: not the weights that {run} began with (then from {before.path})")


def write_run_folder(
    config: RunConfig,
    manifest: Manifest,
    teacher_fingerprint: str | None,
    unreached: dict[str, list[str]],
    run: Path,
    probe: ProbeFacts | None = None,
) -> None:
    """config.json, run.json and tokenizer/: what publishing and every later reader needs to know about the run."""
    sources = [{"name": source.name, "licence": source.licence} for source in manifest.sources]
    totals = manifest.totals.model_dump(include={"tokens", "documents"})
    facts = {
        "corpus": {"fingerprint": manifest.fingerprint, **totals, "sources": sources},
        "teacher": {"path": config.teacher.path, "fingerprint": teacher_fingerprint} if config.teacher else None,
        "unreached_parameters": unreached,
        "ran_on": [one.model_dump() for one in read_ran_on(run / "run.json")],
    }
    if probe:
        facts["probe"] = probe.model_dump(exclude_defaults=True)
    run.mkdir(parents=True, exist_ok=True)
    save_tokenizer(load_tokenizer(tokenizer_name(config, manifest)), run / "tokenizer")
    write_durably(run / "run.json", json.dumps(facts, ensure_ascii=False, indent=2))
    write_durably(run / "config.json", config.model_dump_json(indent=2))


def save_start(student: Student, run: Path) -> None:
    """start/<student>/: the student as it was before its first step, its untrained twin for any comparison."""
    folder = run / "start" / student.name
    if folder.exists():
        return
    partial = folder.with_name(f".{student.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with writing(folder):
        student.published.save_pretrained(partial)
        tokenizer = AutoTokenizer.from_pretrained(run / "tokenizer")
        save_tokenizer(tokenizer, partial, student.encoder.shape.max_row_tokens)
        share(partial)
        partial.rename(folder)


class Done(Settings):
    """done.json: written last, the only sign that a run is complete."""

    step: PositiveInt
    tokens: PositiveInt
    seconds: float
    finished: datetime
    reason: str


def write_done(run: Path, state: TrainingState) -> Done:
    """Say that the last checkpoint is the final one."""
    done = Done(
        step=state.step,
        tokens=state.tokens,
        seconds=state.seconds,
        finished=datetime.now(UTC).replace(microsecond=0),
        reason="trained to training.total_steps",
    )
    write_durably(run / "done.json", done.model_dump_json(indent=2))
    return done


def read_done(run: Path) -> Done | None:
    """What a complete run says of itself; ValueError where it cannot be read."""
    path = run / "done.json"
    if not path.is_file():
        return None
    try:
        return Done.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path}: not what a complete run writes; remove it to go on with the run") from error


def read_losses(run: Path, student: str) -> list[dict[str, float]]:
    """The logged steps with losses of this student, not the probe's of step 0; ValueError as read_metrics."""
    return [line for line in read_metrics(run) if f"{student}/loss" in line]


def summary(run: Path, config: RunConfig, done: Done) -> str:
    """The end of a run: each student's first and last logged loss, what it took, where it is, how to publish it."""
    names = [student.name for student in config.students]
    rate = done.tokens / max(done.seconds, 1e-9)
    took = f"{done.step:,} steps, {done.tokens:,} tokens, {done.seconds:,.0f} s, {rate:,.0f} tokens/s"
    where = [f"newest checkpoint: {run / 'checkpoints' / f'step_{done.step}'}"]
    where += [publish_line(run, name) for name in names]
    try:
        lines = read_losses(run, names[0])
    except ValueError as error:
        return "\n".join([f"no losses to show: {error}", took, *where])
    rows = []
    if lines:
        first, last = lines[0], lines[-1]
        rows = [f"{'student':<12}{'loss at step ' + str(first['step']):>20}{'loss at step ' + str(last['step']):>20}"]
        rows += [f"{name:<12}{first[name + '/loss']:>20.4f}{last[name + '/loss']:>20.4f}" for name in names]
    return "\n".join([*rows, took, *where])
