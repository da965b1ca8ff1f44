"""Candidates for words by the model's own embeddings: what replaces GloVe, without a download.

A word's vector is the mean of its pieces' embeddings, less the mean of all words; neighbours are those with the largest
cosine. Words of one character are left: what they mean their neighbours in the text decide. E is the embeddings' width.
"""

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from tasks.augmentation.texts import Segmenter, Text, Word, fits, part_of_speech
from tasks.rows import Tokenizer


class Neighbours:
    """The nearest of the commonest words, of the same length and part of speech.

    Args:
        embeddings: the model's word embeddings [V, E].
        words: the words to choose from, as `common_words` returns them.
        num_candidates: the most candidates of a word.

    Raises ValueError if the tokenizer knows none of the words.
    """

    def __init__(
        self, embeddings: Tensor, tokenizer: Tokenizer, words: Sequence[str], segmenter: Segmenter, num_candidates: int
    ) -> None:
        self._embeddings, self._tokenizer, self._segmenter = embeddings.float().cpu(), tokenizer, segmenter
        self._num_candidates = num_candidates
        vectors = self._vectors(words)
        known = [(word, vector) for word, vector in zip(words, vectors, strict=True) if vector is not None]
        if not known:
            raise ValueError(f"{tokenizer.name_or_path}: its tokenizer has pieces for none of the words of these texts")
        self._mean = torch.stack([vector for _, vector in known]).mean(0)
        groups: dict[tuple[int, str], list[tuple[str, Tensor]]] = defaultdict(list)
        for word, vector in known:
            groups[len(word), part_of_speech(word, segmenter)].append((word, vector))
        self._groups = {
            key: ([word for word, _ in group], self._unit(torch.stack([vector for _, vector in group])))
            for key, group in groups.items()
        }
        self._found: dict[tuple[str, str], list[str]] = {}

    def candidates(self, texts: Sequence[Text]) -> list[list[list[str]]]:
        """Return the candidates of every word of every text, the nearest first."""
        return [[self._nearest(word) for word in text.words] for text in texts]

    def _nearest(self, word: Word) -> list[str]:
        if len(word.text) == 1:
            return []
        key = word.text, word.part
        if key not in self._found:
            names, vectors = self._groups.get((len(word.text), word.part), ([], torch.empty(0)))
            (vector,) = self._vectors([word.text])
            if vector is None or not names:
                return self._found.setdefault(key, [])
            # One word at a time: a product of matrices may round differently with other words beside it
            order = (vectors @ self._unit(vector)).argsort(descending=True, stable=True).tolist()
            fitting = (names[index] for index in order if fits(names[index], word, self._segmenter))
            self._found[key] = [name for name, _ in zip(fitting, range(self._num_candidates), strict=False)]
        return self._found[key]

    def _unit(self, vectors: Tensor) -> Tensor:
        return torch.nn.functional.normalize(vectors - self._mean, dim=-1)

    def _vectors(self, words: Sequence[str]) -> list[Tensor | None]:
        """Return the mean embedding [E] of every word's pieces; None for a word with an unknown piece."""
        rows = self._tokenizer(list(words), add_special_tokens=False)["input_ids"]
        unknown = self._tokenizer.unk_token_id
        return [self._embeddings[row].mean(0) if row and unknown not in row else None for row in rows]
