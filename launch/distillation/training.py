"""General distillation on every rank: build the teacher, the students and their engines, and train on the corpus."""

import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from corpus.rows.stream import RowStream, count_padded_rows
from corpus.shards.manifest import Manifest
from launch.command_line.config_file import prefix_errors
from launch.distillation.checks import (
    JobInput,
    warn_of_epochs,
    warn_of_few_rows,
    warn_of_foreign_spaces,
    warn_of_lanes,
    warn_of_unreached,
)
from launch.distillation.config import CorpusConfig, RunConfig
from launch.distillation.probe_input import build_probe
from launch.distillation.prompt import RunPrompt, prompt_of_students
from launch.distillation.run_facts import ProbeFacts
from launch.distillation.run_files import (
    check_teacher,
    save_start,
    summary,
    write_run_folder,
)
from launch.distillation.students import build_students, rewire_students
from launch.distillation.teacher_check import check_teacher_on_text
from launch.distillation.text_teacher import BatchesFrom, VectorSource
from launch.distillation.vector_map import read_vector_map, warn_of_other_maps
from launch.job.machine import note_machine, settle_precision
from launch.job.run_folder import check_alike, check_shared, hold_run_folder, keep_kernels, write_done
from pretrain.engines.engine import StudentEngine
from pretrain.models.encoder import HuggingFaceModel
from pretrain.models.teacher import Teacher, TeacherFunction, fingerprint, load_teacher, no_teacher
from pretrain.objectives.kernel_choice import kernels_taken
from pretrain.probes.live_probe import LiveProbe
from pretrain.progress import Progress
from pretrain.ranks.peers import PeerLost, joined_ranks
from pretrain.ranks.stopping import Stop, StopReason
from pretrain.ranks.together import gather_objects, on_rank_zero
from pretrain.students.student import Student, build_student
from pretrain.training.captured_teacher import captured
from pretrain.training.trainer import Trainer

Probe = tuple[LiveProbe | None, ProbeFacts | None]


def count_rows(manifest: Manifest, config: CorpusConfig, text_tokens: int) -> np.ndarray | None:
    """Return the number of rows of each block [blocks], or None if rows are packed. Each rank counts a share.

    Rows have `text_tokens` tokens besides a prompt. Every rank must call it. A ValueError on one rank is raised on
    all.
    """
    if config.rows == "packed":
        return None
    rank, world_size = dist.get_rank(), dist.get_world_size()
    outcome: np.ndarray | ValueError
    try:
        share = range(len(manifest.blocks))[rank::world_size]
        outcome = count_padded_rows(config.rows, manifest, text_tokens, share, not rank)
    except ValueError as error:
        outcome = error
    num_rows = np.zeros(len(manifest.blocks), dtype=np.int64)
    for rank, one in enumerate(gather_objects(outcome)):
        if isinstance(one, ValueError):
            raise one
        num_rows[rank::world_size] = one
    return num_rows


def build_stream(
    manifest: Manifest,
    config: CorpusConfig,
    rows_per_step: int = 1,
    prompt: RunPrompt | None = None,
    gives_places: bool = False,
    gives_draws: bool = False,
    sentence_ends: Sequence[int] = (),
) -> RowStream:
    """Return the stream of training rows, as students read them. Every rank must call it."""
    text_tokens, before = config.row_tokens - (len(prompt.ids) if prompt else 0), prompt_of_students(prompt)
    return RowStream(
        manifest,
        text_tokens + len(before),
        config.seed,
        config.weights,
        config.rows,
        documents_apart=config.attend_within_documents,
        masking=config.masking,
        on_fault=config.on_fault,
        num_lanes=config.num_lanes,
        num_rows=count_rows(manifest, config, text_tokens),
        rows_per_step=rows_per_step,
        bucket_steps=config.bucket_steps,
        prompt=before,
        gives_places=gives_places,
        gives_draws=gives_draws,
        sentence_ends=sentence_ends,
    )


def distil(config: RunConfig, job: JobInput, run: Path, stop: Stop, on_lost: Callable[[PeerLost], None]) -> StopReason:
    """Build teacher, students and engines on every rank, and train; return why it stopped before its end, or NONE.

    Raises ValueError if the run cannot go on, PeerLost if another rank is lost (see `joined_ranks` for `on_lost`).
    """
    with joined_ranks(config.training.collective_timeout_seconds, on_lost) as device:
        trainer = build_trainer(config, job, run, stop, device)
        stop.waits_for = trainer.outlook
        reason = trainer.train()
        if reason and dist.get_rank() == 0:
            message = f"[rank 0] stopped at step {trainer.state.step}: {reason}; run again to resume"
            print(message, file=sys.stderr, flush=True)
        elif not reason:
            done = on_rank_zero(lambda: write_done(run, trainer.state))
            if dist.get_rank() == 0:
                print(summary(run, config, done), flush=True)
    return reason


def build_trainer(config: RunConfig, job: JobInput, run: Path, stop: Stop, device: torch.device) -> Trainer:
    """Build everything on this rank, and on rank 0 the files of the run folder. Every rank must call it."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    manifest = job.manifest
    check_alike(config.model_dump(mode="json"), {"corpus": {"fingerprint": manifest.fingerprint}})
    config = keep_kernels(config, run)
    given, (config, ran_on) = config, settle_precision(config, run, device)
    keeps_vectors = config.teacher is not None and config.teacher.vectors is not None
    stream = build_stream(
        manifest,
        config.corpus,
        config.deepspeed.train_batch_size,
        job.prompt,
        gives_places=keeps_vectors,
        gives_draws=config.samples_tokens,
        sentence_ends=job.sentence_ends,
    )
    teacher, teacher_fingerprint, students, (probe, probe_facts) = build_models(config, job, stream, run, device)
    check_alike({}, {"teacher": {"fingerprint": teacher_fingerprint}})
    rows = config.deepspeed.micro_rows(world_size)
    rewire_students(config, students, teacher, stream, run, device)
    unreached = {student.name: student.to(device).freeze_unreached(teacher) for student in students}

    def start_run() -> None:
        hold_run_folder(run)
        warn_of_lanes(config.corpus.num_lanes, world_size)
        config.deepspeed.warn(world_size)
        warn_of_epochs(config, stream.rows_per_epoch)
        warn_of_few_rows(config, world_size)
        warn_of_unreached(config, unreached)
        warn_of_foreign_spaces(config)
        warn_of_other_maps(config)
        for remark in job.probe.remarks if job.probe else []:
            warnings.warn(remark, stacklevel=2)
        score = None
        if isinstance(teacher, Teacher) and not (run / "run.json").is_file():
            score = check_teacher_on_text(config, manifest, stream, teacher, rows, device)
        prompt = job.prompt.text if job.prompt else None
        write_run_folder(given, manifest, teacher_fingerprint, unreached, run, probe_facts, score, prompt)
        for student in students:
            save_start(student, run)
            if student.inner:
                print(f"[rank 0] {student.name} {student.inner.notes()}", file=sys.stderr, flush=True)
        print(f"[rank 0] {config.length(stream.rows_per_epoch)}", file=sys.stderr, flush=True)

    on_rank_zero(start_run)
    check_shared(run / "config.json")
    batches_from: BatchesFrom = lambda position: stream.batches(position, rows, rank, world_size)  # noqa: E731
    if config.reads_vectors_alone:
        assert isinstance(teacher, Teacher) and teacher_fingerprint
        source = VectorSource(config, manifest, job.prompt, teacher, teacher_fingerprint, device)
        teacher, batches_from = source.settle(stream, batches_from, rows, lambda: stop.reason)
        del source  # with the teacher, which is not needed any more where its vectors are kept
    if config.teacher and config.teacher.capture:
        teacher = captured(teacher, device)
    engines = [
        StudentEngine(student, settings, config.deepspeed, config.training.total_steps, world_size)
        for student, settings in zip(students, config.students, strict=True)
    ]
    trainer = Trainer(
        run,
        config.training,
        teacher,
        engines,
        batches_from,
        config.deepspeed.train_batch_size,
        device,
        lambda: stop.reason,
        probe,
    )
    ran_on = ran_on.model_copy(update={"relation_kernels": kernels_taken()})
    on_rank_zero(lambda: note_machine(run, ran_on, trainer.state.step))
    return trainer


def build_models(
    config: RunConfig, job: JobInput, stream: RowStream, run: Path, device: torch.device
) -> tuple[TeacherFunction, str | None, list[Student], Probe]:
    """Return the teacher, the fingerprint of its weights, the students and the probe.

    The probe reads the teacher before it is cut. Without a teacher students get the vocabulary of the corpus.
    """
    if config.teacher is None:
        tokenizer, seed = job.manifest.tokenizer, config.training.seed
        vocabulary = (tokenizer.vocab_size, tokenizer.pad_token_id)
        bases = [(one, one.architecture.build(*vocabulary)) for one in config.students if one.architecture]  # all have
        students = [build_student(one, None, seed, base=base) for one, base in bases]
        return no_teacher, None, students, _build_probe(config, job, None, run, device)
    with prefix_errors("teacher.path"):
        model, head = load_teacher(config.teacher.path, config.needs_teacher_head)
    teacher_fingerprint = fingerprint(head.model if head else model)
    check_teacher(run, teacher_fingerprint)
    students = build_students(config, model, head, stream, run, job.manifest.tokenizer.pad_token_id)
    probe = _build_probe(config, job, model, run, device)
    reads, vector_map = [student.teacher_reads for student in students], read_vector_map(config)
    teacher = Teacher(model, reads, config.teacher.dtype, device, head, vector_map)
    return teacher, teacher_fingerprint, students, probe


@Progress("measuring the teacher")
def _build_probe(
    config: RunConfig, job: JobInput, teacher: HuggingFaceModel | None, run: Path, device: torch.device
) -> Probe:
    return build_probe(config, job.probe, job.manifest, teacher, run, device, job.prompt) if job.probe else (None, None)
