"""Comparison of models by size and speed: parameters, bytes, texts per second on one CPU thread."""

import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from pretrain.probes.vectors import mean_pooled

BYTES_PER_FLOAT32 = 4


def model_size(model: torch.nn.Module) -> dict[str, float]:
    """Return `num_parameters`, `num_non_embedding` (those outside lookup tables) and `megabytes` (10^6) in float32."""
    total = sum(p.numel() for p in model.parameters())
    tables = {p for m in model.modules() if isinstance(m, torch.nn.Embedding) for p in m.parameters()}
    return {
        "num_parameters": total,
        "num_non_embedding": total - sum(p.numel() for p in tables),
        "megabytes": total * BYTES_PER_FLOAT32 / 1e6,
    }


def compare_cost(
    models: Mapping[str, tuple[torch.nn.Module, Any]],
    texts: Sequence[str],
    *,
    max_tokens: int = 64,
    num_rounds: int = 5,
    device: str | torch.device = "cpu",
) -> dict[str, dict[str, float]]:
    """Return the size and speed of models by name, including tokenisation, each in its own precision.

    The models take turns, text by text and batch by batch, on one CPU thread, so that a busy machine slows all of them
    equally. Raise ValueError if there are no texts.

    Args:
        models: (model, tokenizer) by name.
        max_tokens: length at which texts are cut.
        num_rounds: number of timed batches; there are four times as many single texts.

    Returns:
        By name the keys of `model_size`, and the medians `milliseconds_per_text` (one at a time) and `texts_per_second`
        (in batches of 32).
    """
    if not texts:
        raise ValueError("no texts to time")
    batch = [texts[i % len(texts)] for i in range(32)]
    rounds = [[texts[i % len(texts)]] for i in range(4 * num_rounds)]
    seconds: dict[str, dict[int, list[float]]] = {name: {1: [], 32: []} for name in models}
    with one_thread():
        for rows in [batch, rounds[0], *[batch] * num_rounds, *rounds]:
            for name, (model, tokenizer) in models.items():
                start = time.perf_counter()
                mean_pooled(model, tokenizer, rows, max_tokens=max_tokens, rows_per_batch=32, device=device)
                seconds[name][len(rows)].append(time.perf_counter() - start)
    return {name: model_size(models[name][0]) | median_speed(seconds[name]) for name in models}


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit torch and tokenizers to one thread inside the block."""
    num_threads, parallel = torch.get_num_threads(), os.environ.get("TOKENIZERS_PARALLELISM")
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)
        del os.environ["TOKENIZERS_PARALLELISM"]
        if parallel is not None:
            os.environ["TOKENIZERS_PARALLELISM"] = parallel


def median_speed(seconds: Mapping[int, Sequence[float]]) -> dict[str, float]:
    """Return medians of `{1 or 32 rows: seconds of each call}`, without the first call, which fills caches."""
    return {
        "milliseconds_per_text": 1e3 * statistics.median(seconds[1][1:]),
        "texts_per_second": 32 / statistics.median(seconds[32][1:]),
    }
