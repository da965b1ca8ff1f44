"""Milliseconds of one text at several lengths, all forms in turns, so that a busy machine slows them equally."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from pretrain.probes.cost import one_thread
from pretrain.progress import Progress

LENGTHS = (16, 128, 512)
_ROUNDS = {16: 30, 128: 15, 512: 6}
Batch = Mapping[str, Tensor]


def measure_latency(
    forms: Mapping[str, Callable[[Batch], float]], vocab_size: int, max_tokens: int
) -> dict[str, dict[int, float]]:
    """Return the median milliseconds of a row of random ids by form and length, without lengths over `max_tokens`.

    Args:
        forms: by name, a function that answers a batch on one thread and returns the seconds it took.
    """
    lengths = [length for length in LENGTHS if length <= max_tokens] or [max_tokens]
    found: dict[str, dict[int, float]] = {name: {} for name in forms}
    with one_thread(), torch.no_grad():
        for length in Progress("timing", len(lengths), "lengths").over(lengths):
            ids = torch.randint(vocab_size, (1, length), generator=torch.Generator().manual_seed(length))
            batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
            seconds: dict[str, list[float]] = {name: [] for name in forms}
            for _ in range(1 + _ROUNDS.get(length, 10)):
                for name, ask in forms.items():
                    seconds[name].append(ask(batch))
            for name in forms:
                found[name][length] = 1e3 * statistics.median(seconds[name][1:])  # the first fills caches
    return found


def timed(answer: Callable[[Batch], object]) -> Callable[[Batch], float]:
    """Return a function that answers a batch and returns the seconds it took."""

    def ask(batch: Batch) -> float:
        start = time.perf_counter()
        answer(batch)
        return time.perf_counter() - start

    return ask
