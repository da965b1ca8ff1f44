"""Copies of a task's records, from any source, without those that are least like their text."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AutoTokenizer

from pretrain.models.pretrained import load_encoder, load_pretrained, read_shape
from pretrain.models.sentence_files import read_recipe
from pretrain.models.teacher import load_teacher_head
from pretrain.probes.vectors import mean_pooled
from tasks.augmentation.config import AugmentationConfig
from tasks.augmentation.copies import Copier, MaskAndNGram, WordReplacer, draw_copies
from tasks.augmentation.masked_language import MaskedLanguage
from tasks.augmentation.neighbours import Neighbours
from tasks.augmentation.texts import Segmenter, Text, texts_of
from tasks.config import TaskConfig
from tasks.kinds.record_files import Record

# What needs a masked-language head, and what works without, for messages
HEAD_WORDS = "--source masked_language", "--source neighbours, which works with any encoder"
VectorFunction = Callable[[Sequence[str]], Tensor]  # returns the vectors [N, D] of N texts


class Source(Protocol):
    """Finds candidates for words."""

    def candidates(self, texts: Sequence[Text]) -> list[list[list[str]]]:
        """Return the candidates of every word of every text, the best first."""


class Augmenter:
    """Makes the copies of records. They depend on the record, its number and the configuration alone.

    Args:
        source: where words come from; None to mask words.
        mask: what stands for a masked word.
        vectors: by whose cosine a copy is like its text; None if none is dropped.
    """

    def __init__(
        self,
        task: TaskConfig,
        config: AugmentationConfig,
        segmenter: Segmenter,
        source: Source | None,
        mask: str,
        vectors: VectorFunction | None,
    ) -> None:
        self.task, self.config, self.segmenter, self.source, self.mask = task, config, segmenter, source, mask
        self.vectors = vectors

    def augment(self, records: Iterable[tuple[int, Record]]) -> list[list[dict[str, Any]]]:
        """Return the copies of every record, with its number: its own columns, and what it is a copy of.

        Of a pair one text is changed and the other left as it is, in turns.
        """
        numbered = list(records)
        texts = [texts_of(record, self.task, self.segmenter) for _, record in numbered]
        copiers = iter(self._copiers([text for own in texts for text in own]))
        # Without those to be dropped there shall be as many as are wanted
        number = math.ceil(self.config.copies / (1 - self.config.chosen_drop))
        drawn = [
            draw_copies([next(copiers) for _ in own], [text.text for text in own], number, self.config.seed, row)
            for (row, _), own in zip(numbered, texts, strict=True)
        ]
        rows = zip(numbered, texts, drawn, self._likeness(texts, drawn), strict=True)
        return [
            [self._written(record, row, own[index], copy, cosine) for index, copy, cosine in self._best(copies, found)]
            for (row, record), own, copies, found in rows
        ]

    def _written(self, record: Record, row: int, text: Text, copy: str, cosine: float) -> dict[str, Any]:
        """Return a record with a copy in the place of one of its texts."""
        values = {str(name): value for name, value in record[1].items()}
        name = values.get("id")
        source = name if isinstance(name, int | str) and name != "" else row
        more = {"cosine": cosine} if self.vectors else {}
        return values | {str(text.column): copy, "augmented": True, "source": source} | more

    def _copiers(self, texts: Sequence[Text]) -> list[Copier]:
        if self.source is None:
            return [MaskAndNGram(text, self.mask, self.config.chosen_prob) for text in texts]
        found = self.source.candidates(texts)
        return [WordReplacer(*one, self.config.chosen_prob) for one in zip(texts, found, strict=True)]

    def _likeness(
        self, texts: Sequence[Sequence[Text]], drawn: Sequence[Sequence[tuple[int, str]]]
    ) -> list[list[float]]:
        """Return the cosine of every copy's vector and its text's, to 4 digits; 1 if none is dropped."""
        if self.vectors is None:
            return [[1.0] * len(copies) for copies in drawn]
        pairs = [(own[index].text, copy) for own, copies in zip(texts, drawn, strict=True) for index, copy in copies]
        if not pairs:
            return [[] for _ in drawn]
        places = {text: place for place, text in enumerate(dict.fromkeys(text for pair in pairs for text in pair))}
        vectors = torch.nn.functional.normalize(self.vectors(list(places)), dim=-1)
        cosines = iter([round(float(vectors[places[a]] @ vectors[places[b]]), 4) for a, b in pairs])
        return [[next(cosines) for _ in copies] for copies in drawn]

    def _best(self, copies: Sequence[tuple[int, str]], cosines: Sequence[float]) -> list[tuple[int, str, float]]:
        """Return the share of copies to keep, at most as many as are wanted, in their order."""
        kept = max(1, round(len(copies) * (1 - self.config.chosen_drop)))
        order = sorted(range(len(copies)), key=lambda place: -cosines[place])[: min(kept, self.config.copies)]
        return [(*copies[place], cosines[place]) for place in sorted(order)]


def build_augmenter(
    task: TaskConfig, config: AugmentationConfig, segmenter: Segmenter, words: Sequence[str], device: torch.device
) -> Augmenter:
    """Load the model and build its augmenter.

    Args:
        words: for neighbours, the words to choose from.

    Raises ValueError if the model cannot be loaded or lacks what the source needs.
    """
    path, head = config.model, None
    tokenizer = load_pretrained(AutoTokenizer, path)
    needs_vectors = config.chosen_drop > 0
    if config.source == "masked_language":
        head = load_teacher_head(path, *HEAD_WORDS)
    encoder: Any = head.model.base_model if head else load_encoder(path) if needs_vectors or words else None
    source: Source | None = None
    if head:
        source = MaskedLanguage(head, tokenizer, segmenter, config.candidates, device)
    elif config.source == "neighbours":
        source = Neighbours(
            encoder.get_input_embeddings().weight.detach(), tokenizer, words, segmenter, config.candidates
        )
    mask = tokenizer.mask_token or tokenizer.unk_token
    if source is None and not mask:
        raise ValueError(f"{path}: mask_and_ngram needs a mask or an unknown token; use --source neighbours")
    most, recipe = read_shape(path).max_row_tokens, read_recipe(path)[0]

    def vectors(texts: Sequence[str]) -> Tensor:
        return mean_pooled(
            encoder, tokenizer, texts, recipe=recipe, prompt=recipe.prompts.of(), max_tokens=most, device=device
        )

    return Augmenter(task, config, segmenter, source, mask, vectors if needs_vectors else None)
