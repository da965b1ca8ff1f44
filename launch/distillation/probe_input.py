"""The data of a run's probe, labelled texts and held-out rows, read before the run starts; and building the probe."""

import math
import random
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

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
from launch.distillation.probe_pairs import Documents, SimilarPairs, read_documents, read_similar_pairs
from launch.distillation.prompt import RunPrompt, prompt_of_students
from launch.distillation.run_facts import ProbeFacts, read_facts
from launch.distillation.run_files import tokenizer_name
from launch.distillation.vector_map import read_vector_map
from pretrain.models.encoder import Encoder, HuggingFaceModel, Reads
from pretrain.models.sentence_files import VectorRecipe, read_recipe
from pretrain.objectives.sentence import SentenceConfig
from pretrain.precision import choose_dtype
from pretrain.probes.heldout import HeldoutRows
from pretrain.probes.live_probe import LabelledPairs, LabelledTexts, LiveProbe, TitledDocuments
from pretrain.probes.vectors import NUM_NEIGHBOURS, chance_accuracy
from pretrain.ranks.together import on_rank_zero
from tasks.examples import Classified
from tasks.readers import read_task

ROWS_PER_BATCH = 16
_Item = TypeVar("_Item")
Labelled = tuple[list[str], list[int]]  # texts and their classes


@dataclass(frozen=True)
class ProbeData:
    """Everything that a probe reads."""

    texts: tuple[Labelled, Labelled] | None  # to search, and to classify
    documents: Documents | None
    pairs: SimilarPairs | None
    heldout: list[dict[str, Tensor]]  # batches [B, L]
    facts: ProbeFacts  # without the teacher's score
    remarks: list[str]  # differences from what the configuration suggests


def read_probe_data(config: RunConfig, manifest: Manifest) -> ProbeData | None:
    """Read the probe's data; None without a probe.

    Raise ValueError listing every problem, or StoreLost if the only one is that the held-out corpus is unreachable.
    """
    probe, problems, remarks = config.probe, [], list[str]()
    if probe is None:
        return None
    texts, heldout, facts, kind = None, list[dict[str, Tensor]](), ProbeFacts(), ValueError
    try:
        texts = read_labelled_texts(probe, remarks)
        facts = facts.model_copy(update=_describe_texts(probe, texts))
    except ValueError as error:
        problems.append(f"probe.task: {error}")
    documents, pairs = None, None
    try:
        documents = read_documents(Path(probe.documents), probe.max_dev) if probe.documents else None
        pairs = read_similar_pairs(probe.pairs, probe.max_dev) if probe.pairs else None
        facts = facts.model_copy(update=_describe_pairs(probe, documents, pairs))
    except ValueError as error:
        problems.append(f"probe.{'pairs' if documents or not probe.documents else 'documents'}: {error}")
    try:
        heldout, fingerprint = read_heldout(probe, config.corpus, manifest, remarks)
        facts = facts.model_copy(update={"heldout": fingerprint, "num_heldout_rows": _num_rows(heldout)})
    except ValueError as error:
        kind = StoreLost if isinstance(error, StoreLost) and not problems else ValueError
        problems.append(f"probe.heldout: {error}")
    if problems:
        raise kind("\n".join(problems))
    return ProbeData(texts, documents, pairs, heldout, facts, remarks)


def read_labelled_texts(config: ProbeConfig, remarks: list[str]) -> tuple[Labelled, Labelled] | None:
    """Return texts to search and texts to classify, a random sample of larger files; None without a task.

    Append remarks to `remarks`. Raise ValueError if the examples cannot be used.
    """
    if config.task is None:
        return None
    data = read_task(config.task)
    found = [[one for one in part if isinstance(one, Classified)] for part in (data.train, data.dev)]
    most, keys = (config.max_train, config.max_dev), ("max_train", "max_dev")
    train, dev = (_draw(part, limit) for part, limit in zip(found, most, strict=True))
    for path, part, limit, key in zip((config.task.train, config.task.dev), found, most, keys, strict=True):
        if key in config.model_fields_set and len(part) < limit:
            remarks.append(f"probe.{key}: {path} has only {len(part):,} examples, not {limit:,}; all are used")
    if len(train) < NUM_NEIGHBOURS:
        raise ValueError(f"{config.task.train}: has {len(train)} examples; the probe needs at least {NUM_NEIGHBOURS}")
    if len({one.label for one in train}) < 2:
        message = f"all {len(train):,} sampled examples have the same label; increase probe.max_train"
        raise ValueError(f"{config.task.train}: {message}")
    if overlap := len({one.text for one in train} & {one.text for one in dev}):
        remarks.append(f"probe.task: {overlap:,} of {len(dev):,} texts to classify are also among the texts to search")
    if config.task.scored_by != "accuracy":
        remarks.append(f"probe.task.metric: the probe measures accuracy; {config.task.scored_by} is for fine-tuning")
    return _labelled(train), _labelled(dev)


def _draw(items: Sequence[_Item], most: int) -> list[_Item]:
    """Return a random sample, the same in every run, in the order of the file. Files are often sorted by label."""
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


def _describe_pairs(
    config: ProbeConfig, documents: Documents | None, pairs: SimilarPairs | None
) -> dict[str, str | int]:
    facts: dict[str, str | int] = {}
    if documents:
        facts |= {"documents": xxhash.xxh3_128_hexdigest(orjson.dumps(documents)), "num_documents": len(documents[0])}
    if pairs and config.pairs:
        digest = xxhash.xxh3_128_hexdigest(orjson.dumps([pairs, config.pairs.row_tokens]))
        facts |= {"pairs": digest, "num_pairs": len(pairs[0]), "pairs_task": config.pairs.name}
    return facts


def read_heldout(
    config: ProbeConfig, corpus: CorpusConfig, manifest: Manifest, remarks: list[str]
) -> tuple[list[dict[str, Tensor]], str | None]:
    """Return batches [B, L] of held-out rows, made like the training rows, and the fingerprint of their corpus."""
    if config.heldout is None:
        return [], None
    heldout = load_manifest(config.heldout)
    if heldout.tokenizer.fingerprint != manifest.tokenizer.fingerprint:
        raise ValueError(
            f"{config.heldout} was built with the tokenizer {heldout.tokenizer.name}, but corpus.manifest with "
            f"{manifest.tokenizer.name}; build the held-out corpus with that one"
        )
    if heldout.fingerprint == manifest.fingerprint:
        raise ValueError(f"{config.heldout} is the training corpus; give another one")
    stream = RowStream(heldout, corpus.row_tokens, 0, kind=corpus.rows, documents_apart=corpus.attend_within_documents)
    num_rows = min(config.max_heldout_rows, stream.rows_per_epoch)
    if num_rows < config.max_heldout_rows and "max_heldout_rows" in config.model_fields_set:
        found = f"{config.heldout} has only {num_rows:,} rows"
        remarks.append(f"probe.max_heldout_rows: {found}, not {config.max_heldout_rows:,}; all are used")
    with closing(stream.batches(0, ROWS_PER_BATCH)) as batches:
        read = list(islice(batches, -(-num_rows // ROWS_PER_BATCH)))
    last = num_rows - ROWS_PER_BATCH * (len(read) - 1)  # further rows belong to the next epoch
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
    prompt: RunPrompt | None = None,
) -> tuple[LiveProbe, ProbeFacts]:
    """Build this rank's probe, and return it with its facts. The teacher runs now, uncut, and may be cut afterwards.

    The teacher's score is taken from run.json if the run has measured it on the same texts.
    """
    assert config.probe
    share = dist.get_rank(), dist.get_world_size()
    dtype = choose_dtype(config.deepspeed.torch_autocast.wanted, device)
    probe = LiveProbe(config.probe.every_steps, device, dtype)
    facts = on_rank_zero(lambda: _known_facts(data.facts, run))
    tokenizer = load_tokenizer(tokenizer_name(config, manifest))
    of_teacher = prompt.text if prompt else ""
    of_students = of_teacher if prompt_of_students(prompt) else ""

    def settings(max_tokens: int, before: str = of_students) -> tuple[Any, ...]:
        return tokenizer, max_tokens, device, *share, before

    if data.texts and config.probe.task:
        probe.texts = LabelledTexts(*data.texts, *settings(config.probe.task.row_tokens))
    if data.documents:
        probe.documents = TitledDocuments(*data.documents, *settings(config.corpus.row_tokens))
    if data.pairs and config.probe.pairs:
        probe.pairs = LabelledPairs(*data.pairs, *settings(config.probe.pairs.row_tokens))
    if teacher is None:
        return probe, facts
    reader = Encoder(teacher.to(device), Reads()).eval()
    if probe.texts and facts.teacher_accuracy is None:
        accuracy = probe.accuracy(reader)
        facts = facts.model_copy(update={"teacher_accuracy": accuracy if math.isfinite(accuracy) else None})
    if data.documents or data.pairs:
        facts = facts.model_copy(
            update=_measure_teacher(config, data, probe, reader, lambda n: settings(n, of_teacher))
        )
    if data.heldout:
        widths = [student.shape(reader.shape).attention_size for student in config.students]
        probe.heldout = HeldoutRows(data.heldout, reader, widths, device, dtype, *share)
    reader.release()
    return probe, facts


def _measure_teacher(
    config: RunConfig, data: ProbeData, probe: LiveProbe, reader: Encoder, settings: Callable[[int], tuple[Any, ...]]
) -> dict[str, float | None]:
    """Return the teacher's scores of retrieval and similarity, and keep its vectors of the documents' texts."""
    assert config.probe and config.teacher
    objectives = [one for student in config.students for one in student.objective]
    pooling = next((one.pooling for one in objectives if isinstance(one, SentenceConfig)), None)
    recipe = VectorRecipe(pooling, read_vector_map(config)) if pooling else read_recipe(config.teacher.path)[0]
    scores: dict[str, float | None] = {}
    if data.documents and probe.documents:
        texts = TitledDocuments(*data.documents, *settings(config.corpus.row_tokens))
        if (vectors := probe.embed(texts, reader, recipe)) is not None:
            probe.documents.teacher_vectors = vectors.chunk(2)[1]
            scores["teacher_retrieval"] = texts.scores(vectors, False)["retrieval"]
    if data.pairs and config.probe.pairs:
        pairs = LabelledPairs(*data.pairs, *settings(config.probe.pairs.row_tokens))
        if (vectors := probe.embed(pairs, reader, recipe)) is not None:
            scores["teacher_similarity_auc"] = pairs.scores(vectors)["similarity_auc"]
    return scores


def _known_facts(facts: ProbeFacts, run: Path) -> ProbeFacts:
    """Add the teacher's score from run.json if it was measured on the same texts."""
    before = read_facts(run / "run.json").probe if (run / "run.json").is_file() else None
    if before is None:
        return facts
    if any(
        getattr(before, name) != getattr(facts, name)
        for name in ("texts", "documents", "pairs", "heldout", "num_heldout_rows")
    ):
        message = "probe: texts or rows have changed; scores from before the change cannot be compared with later ones"
        warnings.warn(message, stacklevel=2)
    same = before.texts == facts.texts
    return facts.model_copy(update={"teacher_accuracy": before.teacher_accuracy}) if same else facts
