"""Checks before a run starts: errors for invalid input, and warnings for valid settings that are probably mistakes."""

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import tasks.bilstm  # noqa: F401  (without it transformers says that it is too old for such a teacher)
from corpus.rows.masking import Masker
from corpus.rows.mixture import source_weights
from corpus.rows.sentence_pairs import sentence_end_ids
from corpus.shards.block_cache import BlockCache
from corpus.shards.manifest import Manifest, load_manifest
from corpus.shards.store import StoreLost
from corpus.vocabulary.pieces import pieces_by_id
from corpus.vocabulary.tokenizer import load_tokenizer, tokenizer_fingerprint
from launch.command_line.config_file import prefix_errors
from launch.distillation.config import CorpusConfig, RunConfig, read_run_config
from launch.distillation.probe_input import ProbeData, read_probe_data
from launch.distillation.prompt import RunPrompt, read_prompt
from launch.distillation.run_facts import read_facts
from launch.distillation.run_files import check_prompt, check_run_folder, check_teacher, tokenizer_name
from launch.job.run_folder import is_under_way
from pretrain.models.folder import check_place
from pretrain.models.pooling import recorded_pooling
from pretrain.models.pretrained import check_vocabulary, read_shape
from pretrain.models.sentence_files import recorded_file
from pretrain.models.shape import EncoderShape
from pretrain.models.teacher import fingerprint, load_teacher
from pretrain.objectives.relations import MiniLMv2Config
from pretrain.objectives.sentence import SentenceConfig
from pretrain.progress import Progress

MAX_EPOCHS = 100  # more cause a warning
MIN_COMPARED_ROWS = 16  # fewer cause a warning


def warn_of_lanes(num_lanes: int, world_size: int) -> None:
    """Warn if ranks must read bytes whose rows belong to other ranks."""
    factor = world_size // math.gcd(world_size, num_lanes)
    if factor > 1:
        warnings.warn(
            f"{world_size} ranks read every byte {factor} times because corpus.num_lanes ({num_lanes}) is not a "
            "multiple of their number; the key can be changed only in a new run",
            stacklevel=2,
        )


def warn_of_epochs(config: RunConfig, rows_per_epoch: int) -> None:
    """Warn if a run reads its corpus unusually often, as with a small corpus and a config for a large one."""
    steps, rows = config.training.total_steps, config.deepspeed.train_batch_size
    epochs = steps * rows / rows_per_epoch
    if epochs > MAX_EPOCHS:
        few = max(1, MAX_EPOCHS * rows_per_epoch // rows)
        warnings.warn(
            f"training.total_steps: {steps:,} steps of {rows} rows are {epochs:,.0f} epochs of this corpus, which has "
            f"{rows_per_epoch:,} rows; use a larger corpus or fewer steps ({MAX_EPOCHS} epochs are {few:,} steps)",
            stacklevel=2,
        )


def warn_of_few_rows(config: RunConfig, world_size: int) -> None:
    """Warn if relations between rows have few rows to compare: micro-batches and ranks are never compared."""
    rows = config.deepspeed.micro_rows(world_size)
    objectives = [one for student in config.students for one in student.objective]
    compares = any(isinstance(one, MiniLMv2Config) and one.between == "rows" for one in objectives)
    if compares and rows < MIN_COMPARED_ROWS:
        warnings.warn(
            f'minilm_v2 between "rows" compares the {rows} rows of a micro-batch, of no other one and no other rank; '
            f"with fewer than {MIN_COMPARED_ROWS} it says little: raise deepspeed.train_micro_batch_size_per_gpu",
            stacklevel=2,
        )


def check_pooling(config: RunConfig) -> None:
    """Raise ValueError if an objective pools the teacher's states otherwise than the teacher's own files say.

    Warn if the teacher has no such files.
    """
    path = recorded_file(config.teacher.path, "1_Pooling/config.json") if config.teacher else None
    pooling = recorded_pooling(path.parents[1]) if path else None
    for index, student in enumerate(config.students):
        for number, objective in enumerate(student.objective):
            if pooling and isinstance(objective, SentenceConfig) and objective.pooling != pooling:
                raise ValueError(
                    f"students.{index}.objective.{number}.pooling: the teacher's vectors are pooled by {pooling} "
                    f"({config.teacher and config.teacher.path}/1_Pooling/config.json), got {objective.pooling}"
                )
            if config.teacher and isinstance(objective, SentenceConfig) and not pooling:
                warnings.warn(
                    f"students.{index}.objective.{number}.pooling: {config.teacher.path} has no 1_Pooling/config.json "
                    f"that says how its vectors are made; {objective.pooling} is taken",
                    stacklevel=2,
                )


def warn_of_foreign_spaces(config: RunConfig) -> None:
    """Warn of students whose titles cannot look for the teacher's vectors of texts."""
    for student in config.students if config.teacher and config.probe and config.probe.documents else []:
        if not any(isinstance(one, SentenceConfig) for one in student.objective):
            warnings.warn(
                f"probe.documents: {student.name}: no asymmetric_retrieval: no objective sentence brings its vectors "
                "into the teacher's space",
                stacklevel=2,
            )


def warn_of_unreached(config: RunConfig, unreached: Mapping[str, Sequence[str]]) -> None:
    """Warn if the probe finds neighbours by states that depend on weights which no objective trains."""
    if not config.probe or not config.probe.task:
        return
    for student, names in unreached.items():
        if between := [name for name in names if not name.startswith("pooler.")]:
            warnings.warn(
                f"probe.task: {student}: neighbours are found by its last hidden states, which depend on "
                f"{len(between)} tensors that no objective trains ({between[0]} to {between[-1]}): trust the losses "
                "more than this score, or add the objective hidden_states, which trains them",
                stacklevel=2,
            )


class JobInput(NamedTuple):
    """The input of a run: its corpus's manifest, its probe's data, its prompt, and the ids at which pairs are cut."""

    manifest: Manifest
    probe: ProbeData | None
    prompt: RunPrompt | None = None
    sentence_ends: tuple[int, ...] = ()


@Progress("checking the input")
def check_input(config: RunConfig, run: Path, world_size: int) -> JobInput:
    """Check everything that needs no process group, and return the input.

    Raise ValueError for whatever is wrong, StoreLost if the corpus or the held-out corpus is unreachable.
    """
    config.deepspeed.accumulation_steps(world_size)
    with prefix_errors("teacher.path"):
        shape = read_shape(config.teacher.path) if config.teacher else None
    manifest = _load_corpus_of(config, run)
    check_pooling(config)
    config.check(shape)
    check_tokenizer(config, manifest, shape)
    check_run_folder(config, manifest, run)
    prompt = read_prompt(config)
    check_prompt(prompt.text if prompt else None, run)
    return JobInput(manifest, read_probe_data(config, manifest), prompt, _read_sentence_ends(config, manifest))


def _load_corpus_of(config: RunConfig, run: Path) -> Manifest:
    """Load the manifest. StoreLost (try again) becomes a ValueError if the run started with another path."""
    try:
        return load_corpus(config.corpus)
    except StoreLost as error:
        before = read_run_config(run / "config.json").corpus.manifest if is_under_way(run) else config.corpus.manifest
        if before == config.corpus.manifest:
            raise
        raise ValueError(f"{error}; {run} was started with {before}") from error


def check_tokenizer(config: RunConfig, manifest: Manifest, teacher: EncoderShape | None = None) -> None:
    """Raise ValueError if the corpus was built with another tokenizer, or it has more tokens than the teacher."""
    name = tokenizer_name(config, manifest)
    check_place(name)
    tokenizer = load_tokenizer(name)
    if teacher:
        with prefix_errors("teacher.path"):
            check_vocabulary(name, teacher.vocab_size, pieces_by_id(tokenizer))
    found = tokenizer_fingerprint(tokenizer)
    if manifest.tokenizer.fingerprint != found:
        other = f"but the teacher {name} has another" if config.teacher else "but there is another now"
        raise ValueError(
            f"corpus.manifest: {config.corpus.manifest} was built with the tokenizer {manifest.tokenizer.name} "
            f"({manifest.tokenizer.fingerprint[:12]}), {other} ({found[:12]}); "
            + ("build the corpus with the teacher's tokenizer" if config.teacher else "build the corpus again")
        )


def _read_sentence_ends(config: RunConfig, manifest: Manifest) -> tuple[int, ...]:
    """Return the ids of pieces that end sentences if pairs are cut there. Raise ValueError if there are none."""
    if config.corpus.order == "kept":
        return ()
    name = tokenizer_name(config, manifest)
    with prefix_errors("corpus.order"):
        return tuple(sentence_end_ids(name, load_tokenizer(name)))


def load_corpus(config: CorpusConfig) -> Manifest:
    """Load the manifest, with a block cache if configured, and check that weights and masking fit it."""
    cache = BlockCache(config.cache_folder, int(config.cache_gigabytes * 1e9)) if config.cache_folder else None
    manifest = load_manifest(config.manifest, cache, config.on_fault)
    source_weights([source.name for source in manifest.sources], config.weights)
    if config.masking:
        Masker(manifest, config.masking, config.seed)
    return manifest


def check_finished(config: RunConfig, run: Path) -> None:
    """Raise ValueError if a finished run had another teacher. Its weights are compared only if its path has changed."""
    facts = read_facts(run / "run.json").teacher
    if config.teacher and facts and facts.path != config.teacher.path:
        with prefix_errors("teacher.path"):
            model, head = load_teacher(config.teacher.path, config.needs_teacher_head)
        check_teacher(run, fingerprint(head.model if head else model))
