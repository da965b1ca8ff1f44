"""Sentence vectors of a frozen encoder and their quality: nearest-neighbour accuracy and retrieval.

Shapes: N texts, D hidden width, Q queries, B rows, L tokens.
"""

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from pretrain.models.pooling import pool
from pretrain.models.sentence_files import MEAN, VectorRecipe
from pretrain.precision import Dtype, autocast
from pretrain.progress import Progress

NUM_NEIGHBOURS = 10


@torch.no_grad()
def mean_pooled(
    model: torch.nn.Module,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    recipe: VectorRecipe = MEAN,
    prompt: str = "",
    max_tokens: int = 128,
    rows_per_batch: int = 64,
    device: str | torch.device = "cpu",
    dtype: Dtype = "float32",
    progress: str | None = None,
) -> torch.Tensor:
    """Return each text's vector: the mean of the last hidden states over real tokens, float32 [N, D] on the CPU.

    With another recipe the vectors are made by that. The mean is in float32 and without padding, so a vector does not
    depend on the other texts of its batch. Raise ValueError if there are no texts.

    Args:
        model: a Hugging Face encoder; it is moved to `device` and keeps its training mode.
        prompt: stands before every text.
        max_tokens: length at which texts are cut, with the prompt.
        rows_per_batch: texts per batch; texts of similar length are batched together.
        dtype: the type of computation, by autocast.
        progress: name of the phase in the progress display; None for no display.
    """
    if not texts:
        raise ValueError("no texts to embed")
    was_training = model.training
    model = model.to(device).eval()
    vectors: list[torch.Tensor] = [torch.empty(0)] * len(texts)
    with Progress(progress or "embedding", len(texts), "texts", hidden=progress is None) as shown:
        prompted = [prompt + text for text in texts]
        for chosen, rows in batch_by_length(tokenizer, prompted, max_tokens, rows_per_batch):
            batch = {name: tensor.to(device) for name, tensor in rows.items()}
            with autocast(device, dtype):
                hidden = model(**batch).last_hidden_state
            for i, vector in zip(chosen, recipe_vectors(hidden, batch["attention_mask"], recipe), strict=True):
                vectors[i] = vector
            shown.update(len(chosen))
    if was_training:
        model.train()
    return torch.stack(vectors)


def batch_by_length(
    tokenizer: Any, texts: Sequence[str], max_tokens: int, rows_per_batch: int
) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
    """Yield batches of texts of similar length, cut at `max_tokens`: indices in `texts`, and ids and mask [B, L]."""
    rows = tokenizer(list(texts), truncation=True, max_length=max_tokens, return_token_type_ids=False)["input_ids"]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for start in range(0, len(order), rows_per_batch):
        chosen = order[start : start + rows_per_batch]
        yield chosen, dict(tokenizer.pad({"input_ids": [rows[i] for i in chosen]}, return_tensors="pt"))


def recipe_vectors(hidden: torch.Tensor, attention_mask: torch.Tensor, recipe: VectorRecipe) -> torch.Tensor:
    """Return the vectors that a recipe makes of `hidden` [B, L, D], float32 [B, D or D_out] on the CPU."""
    if recipe.pooling == "mean":
        vectors = masked_mean(hidden, attention_mask)
    else:
        vectors = pool(hidden.float(), attention_mask.bool(), recipe.pooling).cpu()
    return vectors if recipe.projection is None else vectors @ recipe.projection.T.float().cpu()


def masked_mean(hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Return the mean of `hidden` [B, L, D] where `attention_mask` [B, L] is 1, float32 [B, D] on the CPU.

    The mean of a row without real tokens is 0.
    """
    mask = attention_mask.bool().unsqueeze(-1)
    return (hidden.float().masked_fill(~mask, 0.0).sum(dim=1) / mask.sum(dim=1).clamp(min=1)).cpu()


def nearest_neighbour_accuracy(
    train_vectors: torch.Tensor,
    train_labels: Sequence[int | str],
    query_vectors: torch.Tensor,
    query_labels: Sequence[int | str],
    k: int = NUM_NEIGHBOURS,
) -> tuple[float, float]:
    """Return the accuracy of classifying queries by a vote of their k nearest training vectors, and its standard error.

    Vectors are centred by the training mean and normalised. A vote is weighted by its cosine similarity (0 if that is
    negative); a tie goes to the label that sorts first.

    Args:
        train_vectors, train_labels: [N, D] and N labels.
        query_vectors, query_labels: [Q, D] and Q labels.

    Raises:
        ValueError: if sizes do not match, k is not in 1 to N, or all training labels are the same.
    """
    check_sizes(train_vectors, train_labels, query_vectors, query_labels, k)
    classes = sorted(set(train_labels), key=str)
    index = {label: i for i, label in enumerate(classes)}
    targets = torch.tensor([index[label] for label in train_labels])
    mean = train_vectors.float().mean(dim=0)
    train = torch.nn.functional.normalize(train_vectors.float() - mean)
    query = torch.nn.functional.normalize(query_vectors.float() - mean)
    predicted = []
    for rows in query.split(1024):  # bounds the similarities held at once to 1024 x N
        similarity, neighbours = (rows @ train.T).topk(k)
        votes = torch.zeros(len(rows), len(classes))
        votes.scatter_add_(1, targets[neighbours], similarity.clamp_min(0))
        predicted += [classes[i] for i in votes.argmax(dim=1).tolist()]
    accuracy = statistics.fmean(p == label for p, label in zip(predicted, query_labels, strict=True))
    return accuracy, math.sqrt(accuracy * (1 - accuracy) / len(predicted))


def chance_accuracy(labels: Sequence[int | str]) -> float:
    """Return the accuracy of always answering the commonest label."""
    return max(Counter(labels).values()) / len(labels)


def retrieval_accuracy(query_vectors: torch.Tensor, document_vectors: torch.Tensor) -> tuple[float, float]:
    """Return the share of queries [N, D] whose nearest document [N, D] is their own, and its standard error.

    Query i belongs to document i. Queries and documents are each centred by their own mean and normalised. Raise
    ValueError if their shapes differ or there are fewer than two pairs.
    """
    if query_vectors.shape != document_vectors.shape or len(query_vectors) < 2:
        shapes = f"queries are {tuple(query_vectors.shape)}, documents {tuple(document_vectors.shape)}"
        raise ValueError(f"{shapes}; they must be as many, at least 2")
    query, document = (
        torch.nn.functional.normalize(vectors.float() - vectors.float().mean(dim=0))
        for vectors in (query_vectors, document_vectors)
    )
    found = (query @ document.T).argmax(dim=1) == torch.arange(len(query))
    accuracy = found.float().mean().item()
    return accuracy, math.sqrt(accuracy * (1 - accuracy) / len(query))


def similarity_auc(first: torch.Tensor, second: torch.Tensor, labels: Sequence[int]) -> tuple[float, float]:
    """Return how well the cosine of pairs tells label 1 from 0: the area under the ROC curve, and its standard error.

    The area is the share of (1, 0) pairs of pairs in which the first has the higher cosine; equal ones count half. The
    error is that of Hanley and McNeil (1982).

    Args:
        first, second: vectors [N, D] of the texts of each pair.
        labels: N labels, 0 or 1, both of which must occur; ValueError otherwise.
    """
    cosines = torch.nn.functional.cosine_similarity(first.double(), second.double(), dim=-1)
    is_similar = torch.tensor([bool(label) for label in labels])
    ones, zeros = int(is_similar.sum()), int((~is_similar).sum())
    if len(cosines) != len(labels) or not ones or not zeros:
        raise ValueError(f"{len(cosines)} pairs with {ones} labels 1 and {zeros} labels 0; both labels must occur")
    _, inverse, counts = cosines.unique(return_inverse=True, return_counts=True)
    ranks = (counts.cumsum(0) - (counts - 1) / 2).double()[inverse]  # equal cosines share their mean rank
    area = float((ranks[is_similar].sum() - ones * (ones + 1) / 2) / (ones * zeros))
    one, other = area / (2 - area), 2 * area**2 / (1 + area)
    variance = (area * (1 - area) + (ones - 1) * (one - area**2) + (zeros - 1) * (other - area**2)) / (ones * zeros)
    return area, math.sqrt(max(0.0, variance))


def check_sizes(
    train_vectors: torch.Tensor,
    train_labels: Sequence[int | str],
    query_vectors: torch.Tensor,
    query_labels: Sequence[int | str],
    k: int,
) -> None:
    """Raise ValueError if vectors, labels and k do not fit together or all labels are the same."""
    for name, vectors, labels in (
        ("train", train_vectors, train_labels),
        ("query", query_vectors, query_labels),
    ):
        if len(vectors) != len(labels) or not len(vectors):
            message = f"{len(vectors)} {name} vectors for {len(labels)} {name} labels"
            raise ValueError(f"{message}; they must be as many, at least 1")
    if train_vectors.shape[1] != query_vectors.shape[1]:
        widths = f"{train_vectors.shape[1]}, query vectors {query_vectors.shape[1]}"
        raise ValueError(f"train vectors have width {widths}; they must be equal")
    if not 1 <= k <= len(train_vectors):
        raise ValueError(f"k = {k} neighbours of {len(train_vectors)} vectors; must be 1 to {len(train_vectors)}")
    if len(set(train_labels)) < 2:
        raise ValueError(f"all train labels are {train_labels[0]!r}; a vote needs at least two classes")
