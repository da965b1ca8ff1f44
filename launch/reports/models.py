"""The models of a report and what is measured of them: probes without training, a search, cost, held-out loss."""

import json
import warnings
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import AutoTokenizer

from corpus.rows.stream import RowStream
from corpus.shards.manifest import Manifest
from corpus.vocabulary.pieces import pieces_by_id
from corpus.vocabulary.tokenizer import tokenizer_fingerprint
from launch.distillation.probe_config import ProbeConfig
from launch.distillation.probe_input import Labelled, read_labelled_texts
from launch.reports.folders import file_megabytes, untrained_student
from launch.reports.search import draw_queries, find_texts, list_results, searchable
from pretrain.models.pretrained import check_vocabulary, load_encoder, load_pretrained
from pretrain.models.shape import EncoderShape
from pretrain.precision import Dtype
from pretrain.probes.cost import compare_cost
from pretrain.probes.heldout import heldout_relation_losses
from pretrain.probes.vectors import chance_accuracy, mean_pooled, nearest_neighbour_accuracy, retrieval_accuracy
from pretrain.progress import Progress
from tasks.config import Columns, TaskConfig

MAX_TOKENS = 64
MAX_DOCUMENTS = 1000
HELDOUT_BATCHES, HELDOUT_ROWS, HELDOUT_ROW_TOKENS = 8, 32, 128

Pairs = tuple[list[str], list[str]]
Models = dict[str, tuple[Any, Any]]


@dataclass(frozen=True)
class Material:
    """What models are measured on.

    `train` is searched for the neighbours of `asked`. `pairs` are titles and texts of documents; `queries` are asked
    among them, or a few of the titles where there are none. Texts are cut at `max_tokens`. `remarks` are what a reader
    of the scores should know.
    """

    train: Labelled
    asked: Labelled
    remarks: Sequence[str] = ()
    pairs: Pairs | None = None
    queries: tuple[str, ...] = ()
    heldout: Manifest | None = None
    max_tokens: int = MAX_TOKENS

    @property
    def chance(self) -> float:
        """Accuracy of always answering the commonest label."""
        return chance_accuracy(self.asked[1])


def labels_task(folder: Path) -> TaskConfig:
    """Return the task of a folder of train.jsonl and dev.jsonl of {"text", "label"} lines."""
    train, dev = (str(folder / f"{part}.jsonl") for part in ("train", "dev"))
    columns = Columns(text="text")
    return TaskConfig(name="labels", kind="sentence", train=train, dev=dev, columns=columns, row_tokens=MAX_TOKENS)


def read_texts(task: TaskConfig) -> tuple[Labelled, Labelled, list[str]]:
    """Return the task's (texts to search, texts to ask about, remarks), at most as many texts as a run's probe draws.

    Raise ValueError for a task of another kind than single sentences, or naming the file and line of a faulty record.
    """
    if task.kind != "sentence":
        raise ValueError(f"task {task.name}: neighbours are found for single sentences (sentence), got {task.kind}")
    remarks: list[str] = []
    texts = read_labelled_texts(ProbeConfig(task=task), remarks)
    assert texts
    return *texts, [remark.removeprefix("probe.task").removeprefix(": ") for remark in remarks]


def read_pairs(path: Path) -> Pairs:
    """Return (titles, texts) of the first documents of a {"title", "text"} file.

    Raise ValueError naming file and line.
    """
    titles, texts, number = [], [], 0
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                record = json.loads(line)
                titles.append(str(record["title"]))
                texts.append(str(record["text"]))
                if number == MAX_DOCUMENTS:
                    break
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError):
        raise ValueError(f'{path}:{number}: want {{"title": ..., "text": ...}}') from None
    if len(titles) < 2:
        raise ValueError(f"{path}: {len(titles)} documents; a search needs at least 2")
    return titles, texts


def read_models(folders: Mapping[str, str], max_tokens: int = MAX_TOKENS) -> Models:
    """Return `{name: (model, tokenizer)}`, float32, without a pooler (no probe needs it).

    Raise ValueError for a folder without model and tokenizer, or with fewer positions than `max_tokens`.
    """
    models: Models = {}
    for name, folder in folders.items():
        try:
            models[name] = read_model(folder)
            positions = EncoderShape.of(models[name][0].config).max_row_tokens
            if positions < max_tokens:
                raise ValueError(f"has {positions} positions, the task wants {max_tokens}")
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise ValueError(f"--models {name}={folder}: {error}") from error
    return models


@Progress("loading a model")
def read_model(path: str) -> tuple[Any, Any]:
    """Return (model, tokenizer) of a folder or hub id. Raise ValueError where part of either is missing."""
    model, tokenizer = load_encoder(path), load_pretrained(AutoTokenizer, path)
    check_vocabulary(path, model.config.vocab_size, pieces_by_id(tokenizer))
    return model.eval(), tokenizer


def probe_models(models: Models, material: Material, dtype: Dtype = "float32") -> dict[str, dict[str, float]]:
    """Return `accuracy` and `standard_error` of each model's mean-pooled vectors."""
    train, asked = material.train, material.asked
    scores = {}
    for name in models:
        vectors = _embed(models, name, train[0] + asked[0], material, dtype, "probe")
        near, far = vectors[: len(train[0])], vectors[len(train[0]) :]
        result = nearest_neighbour_accuracy(near, train[1], far, asked[1])
        scores[name] = dict(zip(("accuracy", "standard_error"), result, strict=True))
    return scores


def search_documents(
    models: Models, material: Material, dtype: Dtype = "float32"
) -> tuple[dict[str, dict[str, float]], list[dict[str, Any]]]:
    """Ask titles, and the queries, among the texts of the documents.

    Return (`retrieval` and `retrieval_error` of each model, results as `launch.reports.search.list_results` gives).
    """
    if not material.pairs:
        return {}, []
    titles, texts = material.pairs
    owners: list[int | None] = [None] * len(material.queries) or [*draw_queries(titles, texts)]
    queries = material.queries or [titles[place] for place in owners if place is not None]
    scores, found = {}, {}
    for name in models:
        title_vectors, text_vectors = (
            _embed(models, name, side, material, dtype, "search") for side in (titles, texts)
        )
        result = retrieval_accuracy(title_vectors, text_vectors)
        scores[name] = dict(zip(("retrieval", "retrieval_error"), result, strict=True))
        query_vectors = _embed(models, name, list(queries), material, dtype)
        found[name] = find_texts(query_vectors, title_vectors, text_vectors, searchable(texts))
    return scores, list_results(queries, found, titles, owners)


def _embed(
    models: Models, name: str, texts: list[str], material: Material, dtype: Dtype, what: str | None = None
) -> Tensor:
    model, tokenizer = models[name]
    progress = f"{what} {name}" if what else None
    return mean_pooled(model, tokenizer, texts, max_tokens=material.max_tokens, dtype=dtype, progress=progress)


def measure_heldout(models: Models, manifest: Manifest, dtype: Dtype = "float32") -> dict[str, float]:
    """Return the relation loss from the first model to each other one on the first rows of a held-out corpus."""
    built_with = manifest.tokenizer.fingerprint
    same = {name: model for name, (model, one) in models.items() if tokenizer_fingerprint(one) == built_with}
    if (first := next(iter(models))) not in same:
        raise ValueError(f"{manifest.folder}: was built with another tokenizer than the first model's")
    if others := [name for name in models if name not in same]:
        what = "another tokenizer, so no held-out relation loss"
        warnings.warn(f"{', '.join(others)}: {what}", stacklevel=2)
    with closing(RowStream(manifest, HELDOUT_ROW_TOKENS, seed=0).batches(0, HELDOUT_ROWS)) as batches:
        rows = Progress("held-out rows", HELDOUT_BATCHES, "batches").over(islice(batches, HELDOUT_BATCHES))
        return heldout_relation_losses(same[first], same, rows, dtype)


def measure_models(
    folders: Mapping[str, str], models: Models, material: Material, dtype: Dtype = "float32"
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return (a row of numbers for each model, what the search found).

    Retrieval and the held-out loss are left out where the material has nothing for them. Vectors and relations are
    computed in `dtype`, costs always in float32.
    """
    scores = probe_models(models, material, dtype)
    retrieval, search = search_documents(models, material, dtype)
    with Progress("timing the models"):
        costs = compare_cost(models, material.asked[0], max_tokens=material.max_tokens)
    # Last: reading relations changes the attention that the models run with.
    losses = measure_heldout(models, material.heldout, dtype) if material.heldout else {}
    rows = []
    for name, (model, _) in models.items():
        row = {"name": name, "num_layers": model.config.num_hidden_layers, "hidden_size": model.config.hidden_size}
        row |= {"untrained": bool(untrained_student(folders[name]))}
        row |= costs[name] | scores[name] | retrieval.get(name, {})
        for key, value in (
            ("file_megabytes", file_megabytes(folders[name])),
            ("heldout_relation_loss", losses.get(name)),
        ):
            if value is not None:
                row[key] = value
        rows.append(row)
    return rows, search
