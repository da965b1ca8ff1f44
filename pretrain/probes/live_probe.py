"""Scores of students during training: nearest neighbours of labelled texts, and the held-out relation loss.

Probes use no random numbers and change no weights, so training is the same with or without them. Batches do not depend
on the number of ranks, which share them, and neither do the scores.

Shapes: N texts, D hidden width, B rows, L tokens.
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
    """Labelled texts for a nearest-neighbour score, tokenised once; rank r of W embeds every W-th batch.

    Args:
        train: texts among which neighbours are searched, and their labels.
        dev: texts to classify by their neighbours, and their labels.
        max_tokens: length at which texts are cut.
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
        """Return the mean of the last hidden states of each text, float32 [N, D], 0 for texts of other ranks."""
        last = encoder.shape.num_layers
        vectors = torch.zeros(self.num_texts, encoder.shape.hidden_size)
        for places, batch in self._share:
            inputs = {name: tensor.to(self._device) for name, tensor in without_padding(batch).items()}
            hidden = encoder(inputs, Reads(hidden_states=frozenset({last}))).hidden_states[last]
            vectors[places] = masked_mean(hidden, batch["attention_mask"].to(self._device))
        return vectors

    def accuracy(self, vectors: Tensor) -> float:
        """Return the share of dev texts classified correctly, from vectors [N, D] of all texts; NaN if not finite."""
        if not vectors.isfinite().all():
            return math.nan
        train, dev = vectors[: len(self._train_labels)], vectors[len(self._train_labels) :]
        return nearest_neighbour_accuracy(train, self._train_labels, dev, self._dev_labels)[0]


class LiveProbe:
    """The probe that a trainer runs at its start, every `every_steps` steps and at its end, on all ranks.

    Args:
        dtype: the type that students compute in, as in training.
        texts, heldout: what to measure; either may be left out.
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
        """Return whether to measure after this step."""
        return step % self._every_steps == 0

    def measure(self, step: int, students: Iterable[Student]) -> dict[str, float]:
        """Return every student's `probe/neighbour_accuracy` and `probe/heldout_relation_loss`, and `probe_seconds`.

        All but the seconds are the same on every rank. A score that cannot be measured causes a warning, not an error,
        and is left out. Every rank must call it.
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
        """Return the share of dev texts that their neighbours classify correctly; NaN if it cannot be measured."""
        assert self.texts
        vectors = self._sum_shares(encoder, self.texts.vectors)
        return math.nan if vectors is None else self.texts.accuracy(vectors)

    def _sum_shares(self, encoder: Encoder, compute: Callable[[Encoder], Tensor]) -> Tensor | None:
        """Return the sum of what all ranks compute, or None on all of them if one fails."""
        modes, share = [(module, module.training) for module in encoder.modules()], None
        encoder.eval()
        try:
            with torch.no_grad(), autocast(self._device, self._dtype):
                share = compute(encoder).to(self._device)
        except Exception as error:  # of any kind: a probe must not end training, and the other ranks are waiting
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
