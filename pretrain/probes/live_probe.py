"""Scores of students while they train, at no cost to their training: neighbours of labelled texts, held-out relations.

Nothing here draws a random number or changes a weight. Ranks share the batches, which are the same for any number of
them, so that any number gives the same scores.

Shapes: N texts, D hidden, B rows, L tokens.
"""

import math
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pretrain.models.encoder import Encoder, Reads, without_padding
from pretrain.precision import Dtype, autocast
from pretrain.probes.heldout import HeldoutRows
from pretrain.probes.vectors import batch_by_length, masked_mean, nearest_neighbour_accuracy
from pretrain.students.student import Student

_ROWS_PER_BATCH = 64


class LabelledTexts:
    """Texts to search and texts to ask about, tokenised once; rank r of W embeds every W-th batch of them.

    Args:
        train, dev: texts and as many labels.
        max_tokens: where a text is cut.
    """

    def __init__(
        self,
        train: tuple[Sequence[str], Sequence[int]],
        dev: tuple[Sequence[str], Sequence[int]],
        tokenizer: Any,
        max_tokens: int,
        device: torch.device,
        rank: int,
        world_size: int,
    ) -> None:
        self._train_labels, self._dev_labels, self._device = train[1], dev[1], device
        texts = [*train[0], *dev[0]]
        self.num_texts = len(texts)
        self._share = list(batch_by_length(tokenizer, texts, max_tokens, _ROWS_PER_BATCH))[rank::world_size]

    def vectors(self, encoder: Encoder) -> Tensor:
        """Mean of the last hidden states, float32 [N, D], 0 where another rank embeds the text."""
        last = encoder.shape.num_layers
        vectors = torch.zeros(self.num_texts, encoder.shape.hidden_size)
        for places, batch in self._share:
            inputs = {name: tensor.to(self._device) for name, tensor in without_padding(batch).items()}
            hidden = encoder(inputs, Reads(hidden_states=frozenset({last}))).hidden_states[last]
            vectors[places] = masked_mean(hidden, batch["attention_mask"].to(self._device))
        return vectors

    def accuracy(self, vectors: Tensor) -> float:
        """Of every rank's vectors [N, D]; NaN where one is not finite."""
        if not vectors.isfinite().all():
            return math.nan
        near, asked = vectors[: len(self._train_labels)], vectors[len(self._train_labels) :]
        return nearest_neighbour_accuracy(near, self._train_labels, asked, self._dev_labels)[0]


class LiveProbe:
    """What the trainer asks every `every_steps` steps, at the start and at the end; all ranks must ask.

    Args:
        dtype: that models compute in, as they do in training.
        texts, heldout: either may be left out.
    """

    def __init__(
        self,
        every_steps: int,
        device: torch.device,
        dtype: Dtype,
        texts: LabelledTexts | None = None,
        heldout: HeldoutRows | None = None,
    ) -> None:
        self.texts, self.heldout = texts, heldout
        self._every_steps, self._device, self._dtype = every_steps, device, dtype

    def is_due(self, step: int) -> bool:
        """Whether the step is one of the regular ones."""
        return step % self._every_steps == 0

    def measure(self, step: int, students: Iterable[Student]) -> dict[str, float]:
        """Every student's `probe/neighbour_accuracy` and `probe/heldout_relation_loss`, and `probe_seconds`.

        The same on every rank, but for the seconds. What cannot be measured is warned of and left out: it ends no run.
        """
        started, scores = time.perf_counter(), {}
        for student in students:
            for name, value in self._scores(student.encoder).items():
                if math.isfinite(value):
                    scores[f"{student.name}/probe/{name}"] = value
                elif dist.get_rank() == 0:
                    warnings.warn(f"step {step}: {student.name}: {name} is not finite; left out", stacklevel=2)
        return scores | {"probe_seconds": time.perf_counter() - started}

    def _scores(self, encoder: Encoder) -> dict[str, float]:
        scores = {}
        if self.texts:
            scores["neighbour_accuracy"] = self.accuracy(encoder)
        if self.heldout:
            losses = self._sum_shares(encoder, self.heldout.losses)
            scores["heldout_relation_loss"] = math.nan if losses is None else self.heldout.mean(losses)
        return scores

    def accuracy(self, encoder: Encoder) -> float:
        """Share of the texts asked about that their nearest neighbours label rightly; NaN where it cannot be told."""
        assert self.texts
        vectors = self._sum_shares(encoder, self.texts.vectors)
        return math.nan if vectors is None else self.texts.accuracy(vectors)

    def _sum_shares(self, encoder: Encoder, compute: Callable[[Encoder], Tensor]) -> Tensor | None:
        """What all ranks computed, together; nothing, on all of them, where one could not."""
        modes, share = [(module, module.training) for module in encoder.modules()], None
        encoder.eval()
        try:
            with torch.no_grad(), autocast(self._device, self._dtype):
                share = compute(encoder).to(self._device)
        except Exception as error:  # whatever it is: training is worth more than its probe, and other ranks wait
            warnings.warn(f"the probe failed: {type(error).__name__}: {error}", stacklevel=2)
        finally:
            for module, mode in modes:
                module.training = mode
        failed = torch.tensor(float(share is None), device=self._device)
        dist.all_reduce(failed)
        if failed or share is None:
            return None
        dist.all_reduce(share)
        return share.cpu()
