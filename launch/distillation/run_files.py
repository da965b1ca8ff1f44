"""The files of a run folder that describe the run, and checks that a run may resume there."""

import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from corpus.shards.manifest import Manifest
from corpus.vocabulary.saved import save_tokenizer
from corpus.vocabulary.tokenizer import load_tokenizer
from launch.command_line.config_file import changed_keys
from launch.command_line.next_command import publish_line
from launch.distillation.config import MAY_CHANGE, RunConfig, read_run_config
from launch.distillation.run_facts import ProbeFacts, read_facts
from launch.job.facts import read_ran_on
from launch.job.run_folder import Done
from pretrain.durable import new_folder, write_durably
from pretrain.probes.teacher_check import HeadScore
from pretrain.students.student import Student
from pretrain.training.metrics import read_metrics


def tokenizer_name(config: RunConfig, manifest: Manifest) -> str:
    """Return the folder or hub id of the run's tokenizer: the teacher, or the tokenizer the corpus was built with."""
    return config.teacher.path if config.teacher else manifest.tokenizer.name


def check_run_folder(config: RunConfig, manifest: Manifest | None, run: Path) -> None:
    """Raise ValueError if the run in this folder has another configuration or, if given, another corpus."""
    if not (run / "config.json").is_file():
        return
    before = read_run_config(run / "config.json").model_dump(mode="json")  # keys of newer versions have their defaults
    if "bucket_steps" not in json.loads((run / "config.json").read_text(encoding="utf-8"))["corpus"]:
        before["corpus"]["bucket_steps"] = 1 if config.corpus.rows != "packed" else config.corpus.bucket_steps
    changed = changed_keys(before, config.model_dump(mode="json"), may_change=MAY_CHANGE)
    if manifest and read_facts(run / "run.json").corpus.fingerprint != manifest.fingerprint:
        changed.append("corpus.manifest (the corpus itself has changed)")
    if changed:
        remedy = "Give another --run folder, or the configuration of the run in this one"
        if "training.total_steps" in changed:
            remedy += "; the schedule depends on a run's length: to train longer, start a new run with init.student"
        raise ValueError(f"{run}: contains a run with another configuration; changed: {', '.join(changed)}. {remedy}")


def check_teacher(run: Path, teacher_fingerprint: str) -> None:
    """Raise ValueError if the run started with other teacher weights."""
    if (run / "run.json").is_file():
        before = read_facts(run / "run.json").teacher
        if before and before.fingerprint != teacher_fingerprint:
            raise ValueError(f"teacher.path: not the weights that {run} was started with (from {before.path})")


def check_prompt(prompt: str | None, run: Path) -> None:
    """Raise ValueError if the run started with another prompt under the same name."""
    before = read_facts(run / "run.json").teacher if (run / "run.json").is_file() else None
    if before and before.prompt != prompt:
        raise ValueError(f"teacher.prompt: is {prompt!r}, but {run} was started with {before.prompt!r}")


def write_run_folder(
    config: RunConfig,
    manifest: Manifest,
    teacher_fingerprint: str | None,
    unreached: dict[str, list[str]],
    run: Path,
    probe: ProbeFacts | None = None,
    score: HeadScore | None = None,
    prompt: str | None = None,
) -> None:
    """Write config.json, run.json and tokenizer/, from which students are published and reports are made.

    The score of the teacher's head, measured at a run's start alone, stays in run.json.
    """
    sources = [{"name": source.name, "licence": source.licence} for source in manifest.sources]
    totals = manifest.totals.model_dump(include={"tokens", "documents"})
    facts: dict[str, Any] = {
        "corpus": {"fingerprint": manifest.fingerprint, **totals, "sources": sources},
        "teacher": _teacher_facts(config.teacher.path, teacher_fingerprint, run, score) if config.teacher else None,
        "unreached_parameters": unreached,
        "ran_on": [one.model_dump() for one in read_ran_on(run / "run.json")],
    }
    if prompt is not None:
        facts["teacher"]["prompt"] = prompt
    if probe:
        facts["probe"] = probe.model_dump(exclude_defaults=True)
    run.mkdir(parents=True, exist_ok=True)
    save_tokenizer(load_tokenizer(tokenizer_name(config, manifest)), run / "tokenizer")
    write_durably(run / "run.json", json.dumps(facts, ensure_ascii=False, indent=2))
    write_durably(run / "config.json", config.model_dump_json(indent=2))


def _teacher_facts(path: str, fingerprint: str | None, run: Path, score: HeadScore | None) -> dict[str, Any]:
    facts: dict[str, Any] = {"path": path, "fingerprint": fingerprint}
    if score:
        return facts | {"masked_accuracy": score.accuracy, "commonest_share": score.commonest}
    before = read_facts(run / "run.json").teacher if (run / "run.json").is_file() else None
    kept = before.model_dump(include={"masked_accuracy", "commonest_share"}, exclude_none=True) if before else {}
    return facts | kept


def save_start(student: Student, run: Path) -> None:
    """Write start/<student>/, the student before its first step, for comparison with the trained one."""
    folder = run / "start" / student.name
    if folder.exists():
        return
    with new_folder(folder) as partial:
        student.published.save_pretrained(partial)
        tokenizer = AutoTokenizer.from_pretrained(run / "tokenizer")
        save_tokenizer(tokenizer, partial, student.encoder.shape.max_row_tokens)


def read_losses(run: Path, student: str) -> list[dict[str, float]]:
    """Return the logged steps with losses of this student, which step 0 has not. Raise ValueError as read_metrics."""
    return [line for line in read_metrics(run) if f"{student}/loss" in line]


def summary(run: Path, config: RunConfig, done: Done) -> str:
    """Return lines on a finished run: first and last losses, steps and time, and the commands that publish students."""
    names = [student.name for student in config.students]
    rate = done.tokens / max(done.seconds, 1e-9)
    took = f"{done.step:,} steps, {done.tokens:,} tokens, {done.seconds:,.0f} s, {rate:,.0f} tokens/s"
    where = [f"newest checkpoint: {run / 'checkpoints' / f'step_{done.step}'}"]
    where += [publish_line(run, student.name, student.elastic is not None) for student in config.students]
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
