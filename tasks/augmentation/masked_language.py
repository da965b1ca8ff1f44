"""Candidates for words by a masked-language model, in their context and as whole words.

TinyBERT's algorithm (arXiv:1909.10351) predicts a word of one piece; a Chinese word has a piece a character, and pieces
that are predicted apart do not make a word. Here the masks of a word are filled from left to right, each in sight of
those before it, by a beam search. As in the authors' code, the original sentence follows as the second segment, where
the model has segments.

Shapes: B rows, L tokens, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pretrain.models.shape import EncoderShape
from pretrain.models.vocabulary_head import VocabularyHead
from tasks.augmentation.texts import Segmenter, Text, Word, fits, is_chinese
from tasks.kinds.entities import characters_of
from tasks.rows import Tokenizer

_BEAM = 4  # unfinished words that are followed
_LAST_FACTOR = 4  # words looked at for each candidate wanted: not all are in the dictionary
_BATCH_TOKENS = 8192


@dataclass(frozen=True)
class _Query:
    """A row of ids, with token types, in which the tokens of a word are to be filled."""

    word: Word
    ids: list[int]
    types: list[int] | None
    places: list[int]  # of the word's tokens


@dataclass(frozen=True)
class _Filled:
    """The first pieces in the place of a word: their ids, their characters, and their log probability."""

    query: _Query
    ids: tuple[int, ...] = ()
    text: str = ""
    score: float = 0.0


class MaskedLanguage:
    """Words that a masked-language model predicts in the place of others.

    Args:
        head: its head; `head.model` is the whole model.
        num_candidates: the most candidates of a word.

    Raises ValueError if the tokenizer has no mask token, or no pieces of Chinese characters.
    """

    def __init__(
        self,
        head: VocabularyHead,
        tokenizer: Tokenizer,
        segmenter: Segmenter,
        num_candidates: int,
        device: torch.device,
    ) -> None:
        self._head, self._tokenizer, self._segmenter = head.to(device), tokenizer, segmenter
        self._model, self._device, self._num_candidates = head.model.eval().to(device), device, num_candidates
        name, instead = tokenizer.name_or_path, "its tokenizer has none; use --source neighbours"
        if tokenizer.mask_token_id is None:
            raise ValueError(f"{name}: masked_language needs a mask token, and {instead}")
        shape = EncoderShape.of(head.model.config)
        self._pieces = {index: piece for piece, index in tokenizer.get_vocab().items() if is_chinese(piece)}
        if not self._pieces:
            raise ValueError(f"{name}: masked_language needs pieces of Chinese characters, and {instead}")
        lengths = torch.zeros(shape.vocab_size, dtype=torch.long)  # [V], in characters; 0: not to be predicted
        lengths[list(self._pieces)] = torch.tensor([len(piece) for piece in self._pieces.values()])
        self._lengths = lengths.to(device)
        self._max_tokens = shape.max_row_tokens
        types = tokenizer("天", "地").get("token_type_ids") or [0]
        self._has_segments = 1 in types and getattr(head.model.config, "type_vocab_size", 0) > 1

    @torch.no_grad()
    def candidates(self, texts: Sequence[Text]) -> list[list[list[str]]]:
        """Return the candidates of every word of every text, the likeliest first.

        A word has none if its ends are not those of tokens, or it lies behind the model's last position.
        """
        queries = [query for text in texts for query in self._queries(text)]
        finished: dict[int, list[_Filled]] = {id(query): [] for query in queries if query}
        open_ = [_Filled(query) for query in queries if query]
        while open_:
            grown = self._grow(open_)
            open_ = []
            for one in grown:
                if len(one.ids) == len(one.query.places):
                    finished[id(one.query)].append(one)
                else:
                    open_.append(one)
        found = iter([self._words(query.word, finished[id(query)]) if query else [] for query in queries])
        return [[next(found) for _ in text.words] for text in texts]

    def _queries(self, text: Text) -> Iterator[_Query | None]:
        pair = (text.text, text.text) if self._has_segments else (text.text,)
        encoded = self._tokenizer(
            *pair, truncation="longest_first" if len(pair) > 1 else True, max_length=self._max_tokens,
            return_offsets_mapping=True,
        )  # fmt: skip
        first = [index for index, number in enumerate(encoded.sequence_ids(0)) if number == 0]
        offsets = characters_of([encoded["offset_mapping"][index] for index in first], text.text)
        types = encoded.get("token_type_ids") if self._has_segments else None
        for word in text.words:
            inside = [i for i, one in enumerate(offsets) if one and one[0] < word.end and one[1] > word.start]
            ends = [offsets[i] for i in (inside[0], inside[-1])] if inside else []
            aligned = bool(ends) and ends[0][0] == word.start and ends[1][1] == word.end  # type: ignore[index]
            places = [first[i] for i in inside]
            yield _Query(word, encoded["input_ids"], types, places) if aligned else None

    def _grow(self, words: Sequence[_Filled]) -> list[_Filled]:
        """Return the likeliest words with one piece more, of every query as many as the beam is wide."""
        grown: dict[int, list[_Filled]] = {}
        for batch in _batches(words):
            for one, logits in zip(batch, self._predict(batch), strict=True):
                grown.setdefault(id(one.query), []).extend(self._continued(one, logits))
        kept: list[_Filled] = []
        for found in grown.values():
            found.sort(key=lambda one: (-one.score, one.ids))
            is_last = len(found[0].ids) == len(found[0].query.places) if found else False
            kept += found if is_last else found[:_BEAM]
        return kept

    def _continued(self, one: _Filled, scores: Tensor) -> Iterator[_Filled]:
        """Yield a word with each of the likeliest next pieces; `scores` [V] are log probabilities."""
        query, place = one.query, len(one.ids)
        remaining, after = len(query.word.text) - len(one.text), len(query.places) - place - 1
        longest = remaining - after  # each of the pieces after it has a character at least
        allowed = self._lengths == longest if not after else (self._lengths > 0) & (self._lengths <= longest)
        number = _BEAM if after else self._num_candidates * _LAST_FACTOR
        values, ids = scores.masked_fill(~allowed, -torch.inf).topk(min(number, len(scores)))
        for value, index in zip(values.tolist(), ids.tolist(), strict=True):
            if value > -torch.inf:
                yield _Filled(query, (*one.ids, index), one.text + self._pieces[index], one.score + value)

    def _predict(self, batch: Sequence[_Filled]) -> Tensor:
        """Return the log probabilities [B, V] of the next piece of every word."""
        rows, mask = [], self._tokenizer.mask_token_id
        for one in batch:
            ids = list(one.query.ids)
            for number, place in enumerate(one.query.places):
                ids[place] = one.ids[number] if number < len(one.ids) else mask
            rows.append({"input_ids": ids} | ({"token_type_ids": one.query.types} if one.query.types else {}))
        inputs: Any = self._tokenizer.pad(rows, return_tensors="pt")
        output = self._model.base_model(**{name: one.to(self._device) for name, one in inputs.items()})
        next_places = torch.tensor([one.query.places[len(one.ids)] for one in batch], device=self._device)
        hidden = output.last_hidden_state[torch.arange(len(batch), device=self._device), next_places]
        return self._head.logits(hidden).float().log_softmax(-1)

    def _words(self, word: Word, found: Sequence[_Filled]) -> list[str]:
        ordered = sorted(found, key=lambda one: (-one.score, one.ids))
        texts = dict.fromkeys(one.text for one in ordered)
        return [text for text in texts if fits(text, word, self._segmenter)][: self._num_candidates]


def _batches(words: Sequence[_Filled]) -> Iterator[list[_Filled]]:
    """Yield batches of rows of one length, so that no row's numbers depend on padding."""
    batch: list[_Filled] = []
    for one in sorted(words, key=lambda one: len(one.query.ids)):
        length = len(one.query.ids)
        if batch and (len(batch[0].query.ids) != length or (len(batch) + 1) * length > _BATCH_TOKENS):
            yield batch
            batch = []
        batch.append(one)
    if batch:
        yield batch
