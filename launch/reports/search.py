"""A search that a reader can judge: the texts that each model finds for the same Chinese query.

Shapes: N documents, Q queries, D hidden width.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

NUM_QUERIES, NUM_FOUND = 5, 3
_TITLE_CHARACTERS, _TEXT_CHARACTERS = range(8, 31), 50


def searchable(texts: Sequence[str]) -> list[int]:
    """Return the places of the documents that have something to find; of all where none has.

    Texts of a word or none are near to every short query.
    """
    return [i for i, text in enumerate(texts) if len(text) >= _TEXT_CHARACTERS] or [*range(len(texts))]


def draw_queries(titles: Sequence[str], texts: Sequence[str]) -> list[int]:
    """Return the places of a few searchable documents whose titles to ask about, the same in every report."""
    places = searchable(texts)
    usable = [place for place in places if len(titles[place]) in _TITLE_CHARACTERS] or places
    return sorted(random.Random(0).sample(usable, min(NUM_QUERIES, len(usable))))


def find_texts(queries: Tensor, titles: Tensor, texts: Tensor, among: Sequence[int]) -> list[list[int]]:
    """Return the places of the nearest texts of each query, nearest first.

    queries [Q, D], titles [N, D] and texts [N, D] are one model's vectors. Queries are centred by the titles' mean,
    texts by their own, as in the probe that counts how many titles find their text.

    Args:
        among: places of the texts that may be found.
    """
    query = torch.nn.functional.normalize(queries - titles.mean(dim=0))
    document = torch.nn.functional.normalize(texts - texts.mean(dim=0))[list(among)]
    found = (query @ document.T).topk(min(NUM_FOUND, len(document))).indices.tolist()
    return [[among[place] for place in places] for places in found]


def list_results(
    queries: Sequence[str], found: Mapping[str, list[list[int]]], titles: Sequence[str], owners: Sequence[int | None]
) -> list[dict[str, Any]]:
    """Return `{"query", "found": {model: [{"title", "is_own"}]}}` of each query.

    Args:
        found: by model, the places of the texts that it finds for each query.
        owners: the place of the document whose title the query is, or None.
    """
    return [
        {
            "query": query,
            "found": {
                name: [{"title": titles[place], "is_own": place == owner} for place in places[number]]
                for name, places in found.items()
            },
        }
        for number, (query, owner) in enumerate(zip(queries, owners, strict=True))
    ]
