"""What a run's probe measures on: labelled texts and held-out rows, read before the run begins; then the probe."""

import math
import random
import warnings
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import orjson
import torch
import torch.distributed as dist
import xxhash
from torch import Tensor

from corpus.rows.stream import RowStream
from corpus.shards.manifest import Manifest, load_manifest
from corpus.shards.store import StoreLost
from corpus.vocabulary.tokenizer import load_tokenizer
from launch.distillation.config import CorpusConfig, RunConfig
from launch.distillation.probe_config import ProbeConfig
from launch.distillation.run_facts import ProbeFacts, read_facts
from launch.distillation.run_files import tokenizer_name
from pretrain.models.encoder import Encoder, HuggingFaceModel, Reads
from pretrain.precision import choose_dtype
from pretrain.probes.heldout import HeldoutRows
from pretrain.probes.live_probe import LabelledTexts, LiveProbe
from pretrain.probes.vectors import NUM_NEIGHBOURS, chance_accuracy
from pretrain.ranks.together import on_rank_zero
from tasks.examples import Classified
from tasks.readers import read_task

ROWS_PER_BATCH = 16
_Item = TypeVar("_Item")
Labelled = tuple[list[str], list[int]]  # texts and their classes


@dataclass(frozen=True)
class ProbeData:
    """`texts`: those to search and those to ask about. `facts`: all but what the teacher is worth. `remarks`: what is
    not as the configuration may lead one to think."""

    texts: tuple[Labelled, Labelled] | None
    heldout: list[dict[str, Tensor]]
    facts: ProbeFacts
    remarks: list[str]


def read_probe_data(config: RunConfig, manifest: Manifest) -> ProbeData | None:
    """Everything that the probe will ever read; ValueError with every problem of it, StoreLost where the only one is
    that the held-out corpus is out of reach."""
    probe, problems, remarks = config.probe, [], list[str]()
    if probe is None:
        return None
    texts, heldout, facts, kind = None, list[dict[str, Tensor]](), ProbeFacts(), ValueError
    try:
        texts = read_labelled_texts(probe, remarks)
        facts = facts.model_copy(update=_describe_texts(probe, texts))
    except ValueError as error:
        problems.append(f"probe.task: {error}")
    try:
        heldout, fingerprint = read_heldout(probe, config.corpus, manifest, remarks)
        facts = facts.model_copy(update={"heldout": fingerprint, "num_heldout_rows": _num_rows(heldout)})
    except ValueError as error:
        kind = StoreLost if isinstance(error, StoreLost) and not problems else ValueError
        problems.append(f"probe.heldout: {error}")
    if problems:
        raise kind("\n".join(problems))
    return ProbeData(texts, heldout, facts, remarks)


def read_labelled_texts(config: ProbeConfig, remarks: list[str]) -> tuple[Labelled, Labelled] | None:
    """(those to search, those to ask about), drawn where there are more than wanted; None where there is no task."""
    if config.task is None:
        return None
    data = read_task(config.task)
    found = [[one for one in part if isinstance(one, Classified)] for part in (data.train, data.dev)]
    most, keys = (config.max_train, config.max_dev), ("max_train", "max_dev")
    train, dev = (_draw(part, limit) for part, limit in zip(found, most, strict=True))
    for path, part, limit, key in zip((config.task.train, config.task.dev), found, most, keys, strict=True):
        if key in config.model_fields_set and len(part) < limit:
            remarks.append(f"probe.{key}: {path} has {len(part):,} examples, not {limit:,}; all are used")
    if len(train) < NUM_NEIGHBOURS:
        raise ValueError(f"{config.task.train}: {len(train)} examples; {NUM_NEIGHBOURS} nearest ones want as many")
    if len({one.label for one in train}) < 2:
        raise ValueError(f"{config.task.train}: all of {len(train):,} examples drawn have one label; more may not")
    if overlap := len({one.text for one in train} & {one.text for one in dev}):
        remarks.append(f"probe.task: {overlap:,} of {len(dev):,} texts asked about are among those searched")
    if config.task.scored_by != "accuracy":
        remarks.append(f"probe.task.metric: {config.task.scored_by} is for fine-tuning; the probe gives accuracy")
    return _labelled(train), _labelled(dev)


def _draw(items: Sequence[_Item], most: int) -> list[_Item]:
    """The same ones in every run, in the file's order: files are often sorted by label."""
    chosen = random.Random(0).sample(range(len(items)), most) if len(items) > most else range(len(items))
    return [items[i] for i in sorted(chosen)]


def _labelled(examples: Sequence[Classified]) -> Labelled:
    return [one.text for one in examples], [one.label for one in examples]


def _describe_texts(config: ProbeConfig, texts: tuple[Labelled, Labelled] | None) -> dict[str, str | int | float]:
    if texts is None or config.task is None:
        return {}
    train, dev = texts
    return {
        "task": config.task.name,
        "num_train": len(train[0]),
        "num_dev": len(dev[0]),
        "num_classes": len(set(train[1])),
        "chance": chance_accuracy(dev[1]),
        "texts": xxhash.xxh3_128_hexdigest(orjson.dumps([texts, config.task.row_tokens])),
    }


def read_heldout(
    config: ProbeConfig, corpus: CorpusConfig, manifest: Manifest, remarks: list[str]
) -> tuple[list[dict[str, Tensor]], str | None]:
    """(batches [B, L] of rows cut as those that are trained on, fingerprint of their corpus)."""
    if config.heldout is None:
        return [], None
    heldout = load_manifest(config.heldout)
    if heldout.tokenizer.fingerprint != manifest.tokenizer.fingerprint:
        raise ValueError(
            f"{config.heldout} was built with the tokenizer {heldout.tokenizer.name}, corpus.manifest with "
            f"{manifest.tokenizer.name}, which is another; build it with that one"
        )
    if heldout.fingerprint == manifest.fingerprint:
        raise ValueError(f"{config.heldout} is the corpus that is trained on; give one that is not")
    stream = RowStream(heldout, corpus.row_tokens, 0, kind=corpus.rows, document_ids=corpus.attend_within_documents)
    num_rows = min(config.max_heldout_rows, stream.rows_per_epoch)
    if num_rows < config.max_heldout_rows and "max_heldout_rows" in config.model_fields_set:
        remarks.append(f"probe.max_heldout_rows: {config.heldout} gives {num_rows:,}, not {config.max_heldout_rows:,}")
    with closing(stream.batches(0, ROWS_PER_BATCH)) as batches:
        read = list(islice(batches, -(-num_rows // ROWS_PER_BATCH)))
    last = num_rows - ROWS_PER_BATCH * (len(read) - 1)  # rows after it are the next epoch's
    return [*read[:-1], {name: tensor[:last] for name, tensor in read[-1].items()}], heldout.fingerprint


def _num_rows(batches: Sequence[dict[str, Tensor]]) -> int:
    return sum(len(batch["input_ids"]) for batch in batches)


def build_probe(
    config: RunConfig,
    data: ProbeData,
    manifest: Manifest,
    teacher: HuggingFaceModel | None,
    run: Path,
    device: torch.device,
) -> tuple[LiveProbe, ProbeFacts]:
    """The probe on this rank, and what it noted; the teacher is read whole, now, and may be cut afterwards.

    What the teacher is worth is not measured again where the run knows it for the same texts.
    """
    assert config.probe
    share = dist.get_rank(), dist.get_world_size()
    dtype = choose_dtype(config.deepspeed.torch_autocast.wanted, device)
    probe = LiveProbe(config.probe.every_steps, device, dtype)
    facts = on_rank_zero(lambda: _known_facts(data.facts, run))
    if data.texts and config.probe.task:
        tokenizer = load_tokenizer(tokenizer_name(config, manifest))
        probe.texts = LabelledTexts(*data.texts, tokenizer, config.probe.task.row_tokens, device, *share)
    if teacher is None:
        return probe, facts
    reader = Encoder(teacher.to(device), Reads()).eval()
    if probe.texts and facts.teacher_accuracy is None:
        accuracy = probe.accuracy(reader)
        facts = facts.model_copy(update={"teacher_accuracy": accuracy if math.isfinite(accuracy) else None})
    if data.heldout:
        widths = [student.hidden_size for student in config.students]
        probe.heldout = HeldoutRows(data.heldout, reader, widths, device, dtype, *share)
    reader.release()
    return probe, facts


def _known_facts(facts: ProbeFacts, run: Path) -> ProbeFacts:
    """With what the teacher is worth where the run knows it."""
    before = read_facts(run / "run.json").probe if (run / "run.json").is_file() else None
    if before is None:
        return facts
    if any(getattr(before, name) != getattr(facts, name) for name in ("texts", "heldout", "num_heldout_rows")):
        warnings.warn("probe: other texts or rows than before; scores of before and after do not compare", stacklevel=2)
    same = before.texts == facts.texts
    return facts.model_copy(update={"teacher_accuracy": before.teacher_accuracy}) if same else facts
