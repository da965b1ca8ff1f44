"""The models of a report and what is measured of them: probes without training, a search, cost, held-out loss."""

import warnings
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
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
from launch.distillation.probe_pairs import Documents, SimilarPairs
from launch.reports.folders import file_megabytes, untrained_student
from launch.reports.recipes import foreign_spaces, read_own_recipe
from launch.reports.search import draw_queries, find_texts, list_results, searchable
from pretrain.models.pretrained import check_vocabulary, load_encoder, load_pretrained
from pretrain.models.sentence_files import MEAN, VectorRecipe
from pretrain.models.shape import EncoderShape
from pretrain.precision import Dtype
from pretrain.probes.cost import compare_cost
from pretrain.probes.heldout import heldout_relation_losses
from pretrain.probes.vectors import (
    chance_accuracy,
    mean_pooled,
    nearest_neighbour_accuracy,
    retrieval_accuracy,
    similarity_auc,
)
from pretrain.progress import Progress
from tasks.config import Columns, TaskConfig

MAX_TOKENS = 64
QUERY, DOCUMENT = ("query",), ("document", "passage", "corpus")  # names of prompts, as sentence-transformers looks
HELDOUT_BATCHES, HELDOUT_ROWS, HELDOUT_ROW_TOKENS = 8, 32, 128

Models = dict[str, tuple[Any, Any]]


@dataclass(frozen=True)
class Material:
    """What models are measured on.

    `train` is searched for the neighbours of `asked`. `documents` are titles and texts; `queries` are asked among the
    texts, or a few of the titles where there are none. `pairs` are labelled as similar or not. Texts are cut at
    `max_tokens`. `remarks` are what a reader of the scores should know.
    """

    train: Labelled
    asked: Labelled
    remarks: Sequence[str] = ()
    documents: Documents | None = None
    queries: tuple[str, ...] = ()
    heldout: Manifest | None = None
    max_tokens: int = MAX_TOKENS
    pairs: SimilarPairs | None = None
    pairs_task: str = ""
    pair_tokens: int = MAX_TOKENS

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


def probe_models(
    models: Models, recipes: Mapping[str, VectorRecipe], material: Material, dtype: Dtype = "float32"
) -> dict[str, dict[str, float]]:
    """Return `accuracy` and `standard_error` of each model's mean-pooled vectors."""
    train, asked = material.train, material.asked
    scores = {}
    for name in models:
        mean = replace(MEAN, prompts=recipes[name].prompts)
        vectors = _embed(models, name, mean, material.max_tokens, dtype, train[0] + asked[0], "probe", *QUERY)
        near, far = vectors[: len(train[0])], vectors[len(train[0]) :]
        result = nearest_neighbour_accuracy(near, train[1], far, asked[1])
        scores[name] = dict(zip(("accuracy", "standard_error"), result, strict=True))
    return scores


def search_documents(
    models: Models, recipes: Mapping[str, VectorRecipe], spaces: Mapping[str, str], material: Material, dtype: Dtype
) -> tuple[dict[str, dict[str, float]], list[dict[str, Any]]]:
    """Ask titles, and the queries, among the texts of the documents.

    Return (`retrieval` and `retrieval_error` of each model, and `asymmetric` ones of models in the first one's space;
    results as `launch.reports.search.list_results` gives).

    Args:
        recipes: how each model's vectors are made.
        spaces: why a model's vectors are not in the space of the first one's, by its name; the others' are.
    """
    if not material.documents:
        return {}, []
    titles, texts = material.documents
    owners: list[int | None] = [None] * len(material.queries) or [*draw_queries(titles, texts)]
    queries = material.queries or [titles[place] for place in owners if place is not None]
    scores: dict[str, dict[str, float]] = {}
    found, first = {}, None
    for name in models:
        embed = partial(_embed, models, name, recipes[name], material.max_tokens, dtype)
        title_vectors, text_vectors = embed(titles, "search", *QUERY), embed(texts, "search", *DOCUMENT)
        result = retrieval_accuracy(title_vectors, text_vectors)
        scores[name] = dict(zip(("retrieval", "retrieval_error"), result, strict=True))
        if first is None:
            first = text_vectors
        elif name not in spaces:
            result = retrieval_accuracy(title_vectors, first)
            scores[name] |= dict(zip(("asymmetric", "asymmetric_error"), result, strict=True))
        query_vectors = embed(list(queries), None, *QUERY)
        found[name] = find_texts(query_vectors, title_vectors, text_vectors, searchable(texts))
    return scores, list_results(queries, found, titles, owners)


def compare_pairs(
    models: Models, recipes: Mapping[str, VectorRecipe], material: Material, dtype: Dtype
) -> dict[str, dict[str, float]]:
    """Return `similarity_auc` and `similarity_error` of each model: how well cosines tell similar pairs."""
    if not material.pairs:
        return {}
    first, second, labels = material.pairs
    scores = {}
    for name in models:
        vectors = _embed(models, name, recipes[name], material.pair_tokens, dtype, first + second, "pairs", *QUERY)
        one, other = vectors.chunk(2)
        result = similarity_auc(one, other, labels)
        scores[name] = dict(zip(("similarity_auc", "similarity_error"), result, strict=True))
    return scores


def _embed(
    models: Models,
    name: str,
    recipe: VectorRecipe,
    max_tokens: int,
    dtype: Dtype,
    texts: list[str],
    what: str | None = None,
    *prompts: str,
) -> Tensor:
    model, tokenizer = models[name]
    progress, prompt = f"{what} {name}" if what else None, recipe.prompts.of(*prompts)
    options: dict[str, Any] = {"recipe": recipe, "prompt": prompt, "max_tokens": max_tokens, "progress": progress}
    return mean_pooled(model, tokenizer, texts, dtype=dtype, **options)


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
    recipes = {name: read_own_recipe(name, folder) for name, folder in folders.items()}
    spaces = foreign_spaces(folders, models, recipes)
    scores = probe_models(models, recipes, material, dtype)
    retrieval, search = search_documents(models, recipes, spaces, material, dtype)
    similarity = compare_pairs(models, recipes, material, dtype)
    with Progress("timing the models"):
        costs = compare_cost(models, material.asked[0], max_tokens=material.max_tokens)
    # Last: reading relations changes the attention that the models run with.
    losses = measure_heldout(models, material.heldout, dtype) if material.heldout else {}
    rows = []
    for name, (model, _) in models.items():
        row = {"name": name, "num_layers": model.config.num_hidden_layers, "hidden_size": model.config.hidden_size}
        row |= {"untrained": bool(untrained_student(folders[name]))}
        row |= costs[name] | scores[name] | retrieval.get(name, {}) | similarity.get(name, {})
        for key, value in (
            ("file_megabytes", file_megabytes(folders[name])),
            ("heldout_relation_loss", losses.get(name)),
            ("not_asymmetric", spaces.get(name) if "retrieval" in row else None),
        ):
            if value is not None:
                row[key] = value
        rows.append(row)
    return rows, search
