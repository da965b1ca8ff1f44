"""Scores of students during training: neighbours of labelled texts, retrieval, similarity, held-out relation loss.

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
from torch import Tensor, nn

from pretrain.elastic.subnetwork import Network
from pretrain.models.encoder import Reads, without_padding
from pretrain.models.sentence_files import MEAN, VectorRecipe
from pretrain.objectives.sentence import Sentence
from pretrain.precision import Dtype, autocast
from pretrain.probes.heldout import HeldoutRows
from pretrain.probes.vectors import (
    batch_by_length,
    nearest_neighbour_accuracy,
    recipe_vectors,
    retrieval_accuracy,
    similarity_auc,
)
from pretrain.students.student import Student

_ROWS_PER_BATCH = 64


class ProbeTexts:
    """Texts to embed again and again, tokenised once; rank r of W embeds every W-th batch.

    Args:
        max_tokens: length at which texts are cut, with the prompt.
        prompt: stands before every text.
    """

    def __init__(
        self,
        texts: Sequence[str],
        tokenizer: Any,
        max_tokens: int,
        device: torch.device,
        rank: int,
        world_size: int,
        prompt: str = "",
    ) -> None:
        self.num_texts, self._device = len(texts), device
        prompted = [prompt + text for text in texts]
        self._share = list(batch_by_length(tokenizer, prompted, max_tokens, _ROWS_PER_BATCH))[rank::world_size]

    def vectors(self, encoder: Network, recipe: VectorRecipe = MEAN) -> Tensor:
        """Return the vector of each text by a recipe, float32 [N, D], 0 for texts of other ranks."""
        last = encoder.shape.num_layers
        width = encoder.shape.hidden_size if recipe.projection is None else len(recipe.projection)
        vectors = torch.zeros(self.num_texts, width)
        for places, batch in self._share:
            inputs = {name: tensor.to(self._device) for name, tensor in without_padding(batch).items()}
            hidden = encoder(inputs, Reads(hidden_states=frozenset({last}))).hidden_states[last]
            mask = batch["attention_mask"][:, : hidden.shape[1]].to(self._device)
            vectors[places] = recipe_vectors(hidden, mask, recipe)
        return vectors


class LabelledTexts(ProbeTexts):
    """Labelled texts for a nearest-neighbour score.

    Args:
        train: texts among which neighbours are searched, and their labels.
        dev: texts to classify by their neighbours, and their labels.
        more: as for ProbeTexts.
    """

    def __init__(
        self, train: tuple[Sequence[str], Sequence[int]], dev: tuple[Sequence[str], Sequence[int]], *more: Any
    ) -> None:
        super().__init__([*train[0], *dev[0]], *more)
        self._train_labels, self._dev_labels = train[1], dev[1]

    def accuracy(self, vectors: Tensor) -> float:
        """Return the share of dev texts classified correctly, from vectors [N, D] of all texts; NaN if not finite."""
        if not vectors.isfinite().all():
            return math.nan
        train, dev = vectors[: len(self._train_labels)], vectors[len(self._train_labels) :]
        return nearest_neighbour_accuracy(train, self._train_labels, dev, self._dev_labels)[0]


class TitledDocuments(ProbeTexts):
    """Titles that are to find the texts of their documents.

    Attributes:
        teacher_vectors: those of the texts by the teacher [N, D_teacher], for students whose vectors are in its space.
    """

    def __init__(self, titles: Sequence[str], texts: Sequence[str], *more: Any) -> None:
        super().__init__([*titles, *texts], *more)
        self.teacher_vectors: Tensor | None = None

    def scores(self, vectors: Tensor, is_in_teachers_space: bool) -> dict[str, float]:
        """Return the share of titles that find their text, and that of those that find the teacher's vector of it."""
        titles, texts = vectors.chunk(2)
        scores = {"retrieval": retrieval_accuracy(titles, texts)[0]}
        if is_in_teachers_space and self.teacher_vectors is not None:
            scores["asymmetric_retrieval"] = retrieval_accuracy(titles, self.teacher_vectors)[0]
        return scores


class LabelledPairs(ProbeTexts):
    """Pairs of texts, labelled 1 if they are similar and else 0."""

    def __init__(self, first: Sequence[str], second: Sequence[str], labels: Sequence[int], *more: Any) -> None:
        super().__init__([*first, *second], *more)
        self._labels = labels

    def scores(self, vectors: Tensor) -> dict[str, float]:
        """Return how well cosines tell the labels."""
        first, second = vectors.chunk(2)
        return {"similarity_auc": similarity_auc(first, second, self._labels)[0]}


def own_recipe(objectives: Iterable[nn.Module]) -> VectorRecipe:
    """Return how a published student's vectors will be made: as an objective `sentence` trains them, or the mean."""
    for one in objectives:
        if isinstance(one, Sentence):
            weight = one.projection.weight if isinstance(one.projection, nn.Linear) else None
            return VectorRecipe(one.pooling, weight, is_recorded=True)
    return MEAN


class LiveProbe:
    """The probe that a trainer runs at its start, every `every_steps` steps and at its end, on all ranks.

    Args:
        dtype: the type that students compute in, as in training.
        texts, heldout, documents, pairs: what to measure; any may be left out.
    """

    def __init__(
        self,
        every_steps: int,
        device: torch.device,
        dtype: Dtype,
        texts: LabelledTexts | None = None,
        heldout: HeldoutRows | None = None,
        documents: TitledDocuments | None = None,
        pairs: LabelledPairs | None = None,
    ) -> None:
        self.texts, self.heldout, self.documents, self.pairs = texts, heldout, documents, pairs
        self._every_steps, self._device, self._dtype = every_steps, device, dtype

    def is_due(self, step: int) -> bool:
        """Return whether to measure after this step."""
        return step % self._every_steps == 0

    def measure(self, step: int, students: Iterable[Student]) -> dict[str, float]:
        """Return every student's scores by name, such as `probe/neighbour_accuracy`, and `probe_seconds`.

        The smaller sizes of an elastic student have theirs behind the name: `probe/neighbour_accuracy/2x600`. All but
        the seconds are the same on every rank. A score that cannot be measured causes a warning, not an error, and is
        left out. Every rank must call it.
        """
        started, scores = time.perf_counter(), {}
        for student in students:
            for name, value in self._all_scores(student).items():
                if math.isfinite(value):
                    scores[f"{student.name}/probe/{name}"] = value
                elif dist.get_rank() == 0:
                    warnings.warn(f"step {step}: {student.name}: {name} is not finite; left out", stacklevel=2)
        return scores | {"probe_seconds": time.perf_counter() - started}

    def _all_scores(self, student: Student) -> dict[str, float]:
        scores: dict[str, float] = {}
        for size, (network, objectives) in student.networks.items():
            own = self._scores(network) | self.vector_scores(network, own_recipe(objectives))
            scores |= {f"{name}/{size}" if size else name: value for name, value in own.items()}
        return scores

    def _scores(self, encoder: Network) -> dict[str, float]:
        scores = {}
        if self.texts:
            scores["neighbour_accuracy"] = self.accuracy(encoder)
        if self.heldout:
            losses = self._sum_shares(encoder, self.heldout.losses)
            scores["heldout_relation_loss"] = math.nan if losses is None else self.heldout.mean(losses)
        return scores

    def vector_scores(self, encoder: Network, recipe: VectorRecipe) -> dict[str, float]:
        """Return the scores of retrieval and similarity, NaN where they cannot be measured."""
        scores = {}
        if self.documents:
            vectors = self.embed(self.documents, encoder, recipe)
            scores = {"retrieval": math.nan} if vectors is None else self.documents.scores(vectors, recipe.is_recorded)
        if self.pairs:
            vectors = self.embed(self.pairs, encoder, recipe)
            scores |= {"similarity_auc": math.nan} if vectors is None else self.pairs.scores(vectors)
        return scores

    def embed(self, texts: ProbeTexts, encoder: Network, recipe: VectorRecipe) -> Tensor | None:
        """Return the vectors [N, D] of texts on every rank; None if they cannot be computed or are not finite."""
        vectors = self._sum_shares(encoder, lambda encoder: texts.vectors(encoder, recipe))
        return vectors if vectors is not None and vectors.isfinite().all() else None

    def accuracy(self, encoder: Network) -> float:
        """Return the share of dev texts that their neighbours classify correctly; NaN if it cannot be measured."""
        assert self.texts
        vectors = self._sum_shares(encoder, self.texts.vectors)
        return math.nan if vectors is None else self.texts.accuracy(vectors)

    def _sum_shares(self, encoder: Network, compute: Callable[[Network], Tensor]) -> Tensor | None:
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
