"""The models of a report and what is measured of them: probes without training, cost, held-out relation loss."""

import json
import warnings
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from corpus.rows.stream import RowStream
from corpus.shards.manifest import Manifest
from corpus.vocabulary.tokenizer import tokenizer_fingerprint
from pretrain.models.pretrained import check_vocabulary, load_encoder, load_pretrained
from pretrain.precision import Dtype
from pretrain.probes.cost import compare_cost
from pretrain.probes.heldout import heldout_relation_losses
from pretrain.probes.vectors import mean_pooled, nearest_neighbour_accuracy, retrieval_accuracy
from pretrain.progress import Progress

MAX_TOKENS = 64
MAX_DOCUMENTS = 1000
HELDOUT_BATCHES, HELDOUT_ROWS, HELDOUT_ROW_TOKENS = 8, 32, 128

Labelled = tuple[list[str], list[int | str]]
Pairs = tuple[list[str], list[str]]
Models = dict[str, tuple[Any, Any]]


def read_labelled(path: Path) -> Labelled:
    """(texts, labels) of a file of {"text", "label"} lines. ValueError naming file and line."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file of labelled texts")
    texts: list[str] = []
    labels: list[int | str] = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                record = json.loads(line)
                text, label = record["text"], record["label"]
            except (ValueError, TypeError, KeyError):
                text = label = None
            if not isinstance(text, str) or not isinstance(label, int | str):
                raise ValueError(f'{path}:{number}: want {{"text": ..., "label": ...}}')
            texts.append(text)
            labels.append(label)
    if not texts:
        raise ValueError(f"{path}: no labelled texts")
    return texts, labels


def read_pairs(path: Path) -> Pairs:
    """(titles, texts) of the first documents of a {"title", "text"} file. ValueError naming file and line."""
    titles, texts = [], []
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
    return titles, texts


def read_models(arguments: list[str]) -> Models:
    """`{name: (model, tokenizer)}` of `NAME=FOLDER` arguments, float32, without a pooler (no probe needs it).

    ValueError for an argument of another form, a name given twice, or a folder without model and tokenizer.
    """
    models: Models = {}
    for argument in arguments:
        name, found, folder = argument.partition("=")
        if not (name and found and folder) or name in models:
            raise ValueError(f"--models {argument}: want NAME=FOLDER, each name once")
        try:
            models[name] = read_model(folder)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise ValueError(f"--models {argument}: {str(error).splitlines()[0]}") from error
    return models


@Progress("loading a model")
def read_model(path: str) -> tuple[Any, Any]:
    """(model, tokenizer) of a folder or hub id. ValueError where part of either is not there."""
    model, tokenizer = load_encoder(path), load_pretrained(AutoTokenizer, path)
    check_vocabulary(path, model.config.vocab_size, len(tokenizer))
    return model.eval(), tokenizer


def probe_models(
    models: Models, train: Labelled, query: Labelled, dtype: Dtype = "float32"
) -> dict[str, dict[str, float]]:
    """`accuracy` and `standard_error` of each model's mean-pooled vectors."""
    scores = {}
    for name, (model, tokenizer) in models.items():
        vectors = mean_pooled(
            model,
            tokenizer,
            train[0] + query[0],
            max_tokens=MAX_TOKENS,
            dtype=dtype,
            progress=f"probe {name}",
        )
        near, asked = vectors[: len(train[0])], vectors[len(train[0]) :]
        result = nearest_neighbour_accuracy(near, train[1], asked, query[1])
        scores[name] = dict(zip(("accuracy", "standard_error"), result, strict=True))
    return scores


def retrieve_documents(models: Models, pairs: Pairs, dtype: Dtype = "float32") -> dict[str, dict[str, float]]:
    """`retrieval` and `retrieval_error` of each model: titles asked among the texts."""
    scores = {}
    for name, (model, tokenizer) in models.items():
        titles, texts = (
            mean_pooled(model, tokenizer, side, max_tokens=MAX_TOKENS, dtype=dtype, progress=f"retrieval {name}")
            for side in pairs
        )
        result = retrieval_accuracy(titles, texts)
        scores[name] = dict(zip(("retrieval", "retrieval_error"), result, strict=True))
    return scores


def measure_heldout(models: Models, manifest: Manifest, dtype: Dtype = "float32") -> dict[str, float]:
    """Relation loss from the first model to each other one on the first rows of a held-out corpus."""
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
    models: Models,
    train: Labelled,
    query: Labelled,
    pairs: Pairs | None = None,
    heldout: Manifest | None = None,
    dtype: Dtype = "float32",
) -> list[dict[str, Any]]:
    """A row of numbers for each model; retrieval and the held-out loss only where there is what they need.

    Vectors and relations are computed in `dtype`, costs always in float32.
    """
    scores = probe_models(models, train, query, dtype)
    found = retrieve_documents(models, pairs, dtype) if pairs else {}
    with Progress("timing the models"):
        costs = compare_cost(models, query[0], max_tokens=MAX_TOKENS)
    # Last: reading relations changes the attention that the models run with.
    losses = measure_heldout(models, heldout, dtype) if heldout else {}
    rows = []
    for name, (model, _) in models.items():
        row = {"name": name, "num_layers": model.config.num_hidden_layers, "hidden_size": model.config.hidden_size}
        row |= costs[name] | scores[name] | found.get(name, {})
        if name in losses:
            row["heldout_relation_loss"] = losses[name]
        rows.append(row)
    return rows
