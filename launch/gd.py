"""General distillation: one frozen teacher or none, one or several students, one DeepSpeed engine each.

    deepspeed launch/gd.py --config configs/4l312d.json [--run runs/mine] [--set teacher.path=... corpus.seed=3]

Continues a run that was stopped. Exit codes: 0 done, 2 the input was refused (the message says why), 1 anything else.
"""

import argparse
import json
import os
import sys
import time
from contextlib import closing
from pathlib import Path

# The deepspeed launcher puts only launch/ on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.distributed as dist
from transformers import AutoTokenizer
from transformers.utils import logging as transformers_logging

from corpus.block_cache import BlockCache
from corpus.manifest import Manifest, load_manifest
from corpus.masking import Masker
from corpus.mixture import source_weights
from corpus.stream import RowStream
from corpus.tokenizer import load_tokenizer, tokenizer_fingerprint
from launch.run_config import CorpusConfig, RunConfig, changed_keys, read_run_config
from pretrain.checkpoint import TrainingState
from pretrain.encoder import EncoderShape, HuggingFaceModel
from pretrain.engine import StudentEngine, start_distributed
from pretrain.metrics import read_metrics
from pretrain.student import Student, build_student
from pretrain.teacher import (
    Teacher,
    TeacherFunction,
    fingerprint,
    load_teacher_head,
    load_teacher_model,
    no_teacher,
    read_teacher_shape,
)
from pretrain.trainer import Trainer
from pretrain.vocabulary_head import VocabularyHead

SAMPLE_ROWS = 32  # to fit the norms of projected layers on


def parse_arguments() -> argparse.Namespace:
    """The command line; `--local_rank` is what the launcher prepends (LOCAL_RANK says the same)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--run", type=Path, help="run folder; runs/<config's name> unless given")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def check_input(config: RunConfig, run: Path) -> Manifest:
    """Refuse, before any process group, whatever can be refused now; gives the corpus."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    config.deepspeed.accumulation_steps(world_size)
    manifest = load_corpus(config.corpus)
    config.check(read_teacher_shape(config.teacher.path) if config.teacher else None)
    check_tokenizer(config, manifest)
    check_run_folder(config, manifest, run)
    return manifest


def tokenizer_name(config: RunConfig, manifest: Manifest) -> str:
    """Where the run's tokenizer lies: with the teacher, or where the corpus was built from."""
    return config.teacher.path if config.teacher else manifest.tokenizer.name


def check_tokenizer(config: RunConfig, manifest: Manifest) -> None:
    """ValueError where it is not the one that the corpus was built with."""
    name = tokenizer_name(config, manifest)
    found = tokenizer_fingerprint(load_tokenizer(name))
    if manifest.tokenizer.fingerprint != found:
        other = f"the teacher {name} has another" if config.teacher else "what is there now is another"
        raise ValueError(
            f"corpus.manifest: {config.corpus.manifest} was built with the tokenizer {manifest.tokenizer.name} "
            f"({manifest.tokenizer.fingerprint[:12]}), {other} ({found[:12]}); "
            + ("build the corpus with the teacher's tokenizer" if config.teacher else "build the corpus again")
        )


def load_corpus(config: CorpusConfig) -> Manifest:
    """The manifest, with a cache for blocks where one is configured; weights and masking fit it."""
    cache = BlockCache(config.cache_folder, int(config.cache_gigabytes * 1e9)) if config.cache_folder else None
    manifest = load_manifest(config.manifest, cache, config.on_fault)
    source_weights([source.name for source in manifest.sources], config.weights)
    if config.masking:
        Masker(manifest, config.masking, config.seed)
    return manifest


def build_stream(manifest: Manifest, config: CorpusConfig) -> RowStream:
    """The rows that the configuration asks for."""
    return RowStream(
        manifest,
        config.row_tokens,
        config.seed,
        config.weights,
        config.rows,
        document_ids=config.attend_within_documents,
        masking=config.masking,
        on_fault=config.on_fault,
    )


def check_run_folder(config: RunConfig, manifest: Manifest, run: Path) -> None:
    """Refuse a run folder that another config or another corpus made."""
    if not (run / "config.json").is_file():
        return
    changed = changed_keys(json.loads((run / "config.json").read_text()), config.model_dump(mode="json"))
    if json.loads((run / "run.json").read_text())["corpus"]["fingerprint"] != manifest.fingerprint:
        changed.append("corpus.manifest (the corpus itself has changed)")
    if changed:
        raise ValueError(
            f"{run}: belongs to another config; different: {', '.join(changed)}. "
            "Give another --run folder, or the config that began this one"
        )


def write_run_folder(
    config: RunConfig, manifest: Manifest, teacher_fingerprint: str | None, unreached: dict[str, list[str]], run: Path
) -> None:
    """config.json, run.json and tokenizer/: what publishing and every later reader needs to know about the run."""
    sources = [{"name": source.name, "licence": source.licence} for source in manifest.sources]
    totals = manifest.totals.model_dump(include={"tokens", "documents"})
    facts = {
        "corpus": {"fingerprint": manifest.fingerprint, **totals, "sources": sources},
        "teacher": {"path": config.teacher.path, "fingerprint": teacher_fingerprint} if config.teacher else None,
        "unreached_parameters": unreached,
    }
    run.mkdir(parents=True, exist_ok=True)
    load_tokenizer(tokenizer_name(config, manifest)).save_pretrained(run / "tokenizer")
    (run / "run.json").write_text(json.dumps(facts, ensure_ascii=False, indent=2))
    (run / "config.json").write_text(config.model_dump_json(indent=2))


def save_start(student: Student, run: Path) -> None:
    """start/<student>/: the student as it was before its first step, its untrained twin for any comparison."""
    folder = run / "start" / student.name
    if not folder.exists():
        student.published.save_pretrained(folder)
        AutoTokenizer.from_pretrained(run / "tokenizer").save_pretrained(folder)


def distil(config: RunConfig, manifest: Manifest, run: Path) -> None:
    """Build teacher, students and engines on every rank, and train."""
    device = start_distributed()
    rank, world_size = dist.get_rank(), dist.get_world_size()
    stream = build_stream(manifest, config.corpus)
    teacher, teacher_fingerprint, students = build_models(config, manifest, stream, run, device)
    unreached = {student.name: student.to(device).freeze_unreached(teacher) for student in students}
    if rank == 0:
        write_run_folder(config, manifest, teacher_fingerprint, unreached, run)
        for student in students:
            save_start(student, run)
    engines = [
        StudentEngine(student, settings, config.deepspeed, config.training.total_steps, world_size)
        for student, settings in zip(students, config.students, strict=True)
    ]
    rows = config.deepspeed.train_micro_batch_size_per_gpu
    trainer = Trainer(
        run,
        config.training,
        teacher,
        engines,
        lambda position: stream.batches(position, rows, rank, world_size),
        config.deepspeed.train_batch_size,
        config.corpus.row_tokens,
        device,
    )
    state = trainer.train()
    if rank == 0:
        print(summary(run, [student.name for student in students], state), flush=True)


def build_models(
    config: RunConfig, manifest: Manifest, stream: RowStream, run: Path, device: torch.device
) -> tuple[TeacherFunction, str | None, list[Student]]:
    """The teacher, the fingerprint of its weights and the students, for whom the corpus's tokenizer may stand in."""
    if config.teacher is None:
        seed, vocabulary = config.training.seed, (manifest.tokenizer.vocab_size, manifest.tokenizer.pad_token_id)
        bases = [(one, one.architecture.build(*vocabulary)) for one in config.students if one.architecture]  # all have
        return no_teacher, None, [build_student(one, None, seed, base=base) for one, base in bases]
    head = load_teacher_head(config.teacher.path) if config.needs_teacher_head else None
    model = head.model.base_model if head else load_teacher_model(config.teacher.path)
    teacher_fingerprint = fingerprint(head.model if head else model)
    check_teacher(run, teacher_fingerprint)
    students = build_students(config, model, head, stream)
    reads = [student.teacher_reads for student in students]
    return Teacher(model, reads, config.teacher.dtype, device, head), teacher_fingerprint, students


def build_students(
    config: RunConfig, teacher: HuggingFaceModel, head: VocabularyHead | None, stream: RowStream
) -> list[Student]:
    """Every student at its start; where layers are projected, the same rows are the sample on every rank."""
    shape, sample = EncoderShape.of(teacher.config), None
    if any(student.init.projects(shape, student.shape(shape)) for student in config.students):
        with closing(stream.batches(0, SAMPLE_ROWS)) as batches:
            sample = next(batches)
    return [build_student(student, teacher, config.training.seed, sample, head) for student in config.students]


def check_teacher(run: Path, teacher_fingerprint: str) -> None:
    """Refuse to go on with other weights than the run began with."""
    if (run / "run.json").is_file():
        before = json.loads((run / "run.json").read_text())["teacher"]
        if before["fingerprint"] != teacher_fingerprint:
            raise ValueError(f"teacher.path: not the weights that {run} began with (then from {before['path']})")


def summary(run: Path, names: list[str], state: TrainingState) -> str:
    """The table at the end: each student's first and last logged loss, then what it took and where it is."""
    lines = read_metrics(run)
    first, last = lines[0], lines[-1]
    rows = [f"{'student':<12}{'loss at step ' + str(first['step']):>20}{'loss at step ' + str(last['step']):>20}"]
    rows += [f"{name:<12}{first[name + '/loss']:>20.4f}{last[name + '/loss']:>20.4f}" for name in names]
    rate = state.tokens / max(state.seconds, 1e-9)
    took = f"{state.step:,} steps, {state.tokens:,} tokens, {state.seconds:,.0f} s, {rate:,.0f} tokens/s"
    return "\n".join([*rows, took, f"newest checkpoint: {run / 'checkpoints' / f'step_{state.step}'}"])


def main() -> None:
    """Refuse in the first second, or train."""
    arguments = parse_arguments()
    run = arguments.run or Path("runs") / arguments.config.stem
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # the teacher comes without its head: that is meant
    try:
        config = read_run_config(arguments.config, arguments.overrides)
        manifest = check_input(config, run)
    except ValueError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"refused: {error}", file=sys.stderr, flush=True)
        else:
            time.sleep(3)  # the launcher ends every rank when the first one goes: let the one that speaks finish
        sys.exit(2)
    try:
        distil(config, manifest, run)
    except ValueError as error:
        print(f"[rank {os.environ['RANK']}] stopped: {error}", file=sys.stderr, flush=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
