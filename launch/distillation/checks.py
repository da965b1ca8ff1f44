"""Before a run begins: input that is refused, and warnings about settings that are legal but perhaps not meant."""

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from corpus.rows.masking import Masker
from corpus.rows.mixture import source_weights
from corpus.shards.block_cache import BlockCache
from corpus.shards.manifest import Manifest, load_manifest
from corpus.shards.store import StoreLost
from corpus.vocabulary.tokenizer import load_tokenizer, tokenizer_fingerprint
from launch.command_line.config_file import prefix_errors
from launch.distillation.config import CorpusConfig, RunConfig, read_run_config
from launch.distillation.probe_input import ProbeData, read_probe_data
from launch.distillation.run_facts import read_facts
from launch.distillation.run_files import check_run_folder, check_teacher, tokenizer_name
from launch.job.run_folder import is_under_way
from pretrain.models.encoder import EncoderShape
from pretrain.models.pretrained import check_vocabulary, read_shape
from pretrain.models.teacher import fingerprint, load_teacher
from pretrain.progress import Progress

MAX_EPOCHS = 100  # more of them are warned of


def warn_of_lanes(num_lanes: int, world_size: int) -> None:
    """Say so where every rank reads bytes whose rows are another's."""
    factor = world_size // math.gcd(world_size, num_lanes)
    if factor > 1:
        warnings.warn(
            f"{world_size} ranks read each byte {factor} times: corpus.num_lanes ({num_lanes}) is no multiple of them; "
            "the key belongs to the run, so it is chosen before its first step",
            stacklevel=2,
        )


def warn_of_epochs(config: RunConfig, rows_per_epoch: int) -> None:
    """Warn of a run that reads its corpus more often than anybody means to: a small corpus under a shipped config."""
    steps, rows = config.training.total_steps, config.deepspeed.train_batch_size
    epochs = steps * rows / rows_per_epoch
    if epochs > MAX_EPOCHS:
        few = max(1, MAX_EPOCHS * rows_per_epoch // rows)
        warnings.warn(
            f"training.total_steps: {steps:,} steps of {rows} rows are {epochs:,.0f} epochs of this corpus, which has "
            f"{rows_per_epoch:,} rows; give a larger corpus or fewer steps ({MAX_EPOCHS} epochs are {few:,})",
            stacklevel=2,
        )


def warn_of_documents(config: RunConfig) -> None:
    """Say so where losses compare tokens of documents that do not attend to each other."""
    objectives = [one for student in config.students for one in student.objective]
    names: list[str] = sorted({one.type for one in objectives if one.compares_all_tokens})
    names += ["probe.heldout"] if config.probe and config.probe.heldout else []
    if config.corpus.attend_within_documents and names:
        warnings.warn(
            f"corpus.attend_within_documents: {', '.join(names)} compare every two tokens of a row, those of different "
            "documents too, to which neither model attends; leave the key out, or match hidden_states or pkd alone",
            stacklevel=2,
        )


def warn_of_unreached(config: RunConfig, unreached: Mapping[str, Sequence[str]]) -> None:
    """Say so where the probe's neighbours are found by states that pass through weights nothing trains."""
    if not config.probe or not config.probe.task:
        return
    for student, names in unreached.items():
        if between := [name for name in names if not name.startswith("pooler.")]:
            warnings.warn(
                f"probe.task: {student}: its last states, by which neighbours are found, pass through {len(between)} "
                f"tensors that no objective trains ({between[0]} to {between[-1]}): the neighbours say less than the "
                "losses; hidden_states beside what it has would reach them",
                stacklevel=2,
            )


class JobInput(NamedTuple):
    """What a run reads: its corpus, opened, and what its probe measures on, read."""

    manifest: Manifest
    probe: ProbeData | None


@Progress("checking the input")
def check_input(config: RunConfig, run: Path, world_size: int) -> JobInput:
    """Refuse, before any process group, whatever can be refused now."""
    config.deepspeed.accumulation_steps(world_size)
    manifest = _load_corpus_of(config, run)
    with prefix_errors("teacher.path"):
        shape = read_shape(config.teacher.path) if config.teacher else None
    config.check(shape)
    check_tokenizer(config, manifest, shape)
    check_run_folder(config, manifest, run)
    return JobInput(manifest, read_probe_data(config, manifest))


def _load_corpus_of(config: RunConfig, run: Path) -> Manifest:
    """The manifest. One that is not where the run had it may come back; another path is rather a mistyped one."""
    try:
        return load_corpus(config.corpus)
    except StoreLost as error:
        before = read_run_config(run / "config.json").corpus.manifest if is_under_way(run) else config.corpus.manifest
        if before == config.corpus.manifest:
            raise
        raise ValueError(f"{error}; {run} was begun with {before}") from error


def check_tokenizer(config: RunConfig, manifest: Manifest, teacher: EncoderShape | None = None) -> None:
    """ValueError where it is not the one that the corpus was built with, or larger than the teacher's embeddings."""
    name = tokenizer_name(config, manifest)
    tokenizer = load_tokenizer(name)
    if teacher:
        with prefix_errors("teacher.path"):
            check_vocabulary(name, teacher.vocab_size, len(tokenizer))
    found = tokenizer_fingerprint(tokenizer)
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


def check_finished(config: RunConfig, run: Path) -> None:
    """Refuse to call a run done that another teacher made. One at the path it had then is not read again."""
    facts = read_facts(run / "run.json").teacher
    if config.teacher and facts and facts.path != config.teacher.path:
        with prefix_errors("teacher.path"):
            model, head = load_teacher(config.teacher.path, config.needs_teacher_head)
        check_teacher(run, fingerprint(head.model if head else model))
