"""Pairs for ALBERT's sentence order (arXiv:1909.11942): texts of whole sentences, swapped in half of the pairs.

A pair that is cut anywhere would betray its order: where one text breaks off, the other goes on. So the part of a
document that fills a row is cut between two sentences, and what remains of a sentence at the part's edges is left out,
up to two half sentences of a row. A part without such a place is a row of one text, `CLS text SEP`, whose order is not
asked. The first and last sentence of a document may lack an end mark.

L is row_tokens, n rows.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np

from corpus.permutation import derive_key, mix
from corpus.rows.masking import IGNORED
from corpus.rows.open_blocks import Planes
from corpus.rows.packing import Frame, num_padded_rows, sizes_of_parts
from corpus.vocabulary.pieces import pieces_by_id

PairOrder = Literal["kept", "swapped_half"]
END_MARKS = frozenset("。！？；…!?;")
_SWAP = 8  # key of independent random numbers


def sentence_end_ids(name: str, tokenizer: Any) -> list[int]:
    """Return the ids of pieces that end sentences. Raise ValueError if a tokenizer, called `name`, has none."""
    found = [index for index, piece in enumerate(pieces_by_id(tokenizer)) if piece and set(piece) <= END_MARKS]
    if not found:
        marks = " ".join(sorted(END_MARKS))
        raise ValueError(f"the tokenizer {name} has no piece that ends a sentence, of {marks}; pairs cannot be swapped")
    return found


class SentencePairs:
    """Builds rows of pairs between sentences, and swaps half of them.

    Args:
        ends: ids of pieces that end sentences; several in a row are one end.
        seed: of the pairs that are swapped.
    """

    def __init__(self, ends: Sequence[int], frame: Frame, seed: int) -> None:
        self._ends, self._frame, self._key = np.array(ends), frame, derive_key(seed, _SWAP)

    def builder(self, ids: np.ndarray) -> Callable[..., np.ndarray]:
        """Return what builds the rows of a block with these ids [tokens], as `build_pair_rows` does."""
        is_end = np.isin(ids, self._ends)
        is_end[:-1] &= ~is_end[1:]
        return partial(_build_rows, is_end)

    def swap_half(self, planes: Planes, positions: np.ndarray) -> tuple[Planes, np.ndarray]:
        """Return rows whose texts are exchanged in half of the pairs, and labels: 1 where they are, 0 where not.

        Args:
            planes: ids [n, L], and maybe word planes.
            positions: int64 [n], of the rows since training began; each position is drawn anew.

        Labels are int64 [n], -100 for rows of one text.
        """
        ids, frame = planes[0], self._frame
        ends = ids == frame.sep
        is_pair = ends.sum(axis=1) == 2
        labels = (mix(self._key + positions.astype(np.uint64)) >> np.uint64(63)).astype(np.int64)
        middle = ends.argmax(axis=1)[:, None]  # of `CLS A SEP B SEP`; A has middle - 1 tokens
        last = (ids.shape[1] - 1 - ends[:, ::-1].argmax(axis=1))[:, None]
        size_of_b, columns = last - middle - 1, np.arange(ids.shape[1])
        sources = np.where(columns <= size_of_b, columns + middle, columns - size_of_b - 1)
        sources = np.where(columns == size_of_b + 1, middle, sources)
        is_moved = (columns > 0) & (columns < last) & (is_pair & (labels == 1))[:, None]
        sources = np.where(is_moved, sources, columns)
        swapped = tuple(np.take_along_axis(plane, sources, axis=1) for plane in planes)
        return swapped, np.where(is_pair, labels, IGNORED)


def _build_rows(
    is_end: np.ndarray, values: np.ndarray, lengths: np.ndarray, row_tokens: int, frame: Frame
) -> np.ndarray:
    """Return pair rows [rows, L] that are cut after tokens where `is_end` [tokens]; see `build_packed_rows`."""
    parts = num_padded_rows("pairs", lengths, row_tokens)
    first, cut, last = _cuts(is_end, lengths, parts, sizes_of_parts(lengths, parts))
    sizes, size_of_a = last - first, cut - first
    columns = np.arange(row_tokens)
    is_pair = size_of_a < sizes
    after = columns - 1 - ((columns > size_of_a[:, None]) & is_pair[:, None])  # the text's token at each column
    is_text = (columns > 0) & (after < sizes[:, None]) & ~((columns == size_of_a[:, None] + 1) & is_pair[:, None])
    rows = np.full((len(sizes), row_tokens), frame.pad, dtype=values.dtype)
    rows[is_text] = values[(first[:, None] + after)[is_text]]
    every = np.arange(len(sizes))
    rows[every, size_of_a + 1] = rows[every, sizes + 1 + is_pair] = frame.sep
    rows[:, 0] = frame.cls
    return rows


def _cuts(
    is_end: np.ndarray, lengths: np.ndarray, parts: np.ndarray, sizes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for each part of documents where its text begins, where its second text begins and where it ends.

    All int64 [rows], places in the block's tokens. A part that is not cut has its second text begin at its end.
    """
    stops = np.cumsum(sizes)
    starts, documents_end = stops - sizes, np.cumsum(lengths)
    boundaries = np.append(np.flatnonzero(is_end) + 1, len(is_end))
    before = lambda places: np.searchsorted(boundaries, places)  # noqa: E731  (boundaries below each place)
    first = np.where(np.isin(starts, documents_end - lengths), starts, boundaries[before(starts)])
    last = np.where(np.isin(stops, documents_end), stops, boundaries[np.maximum(before(stops + 1) - 1, 0)])
    begin = before(first + 1)
    choices = before(last) - begin  # boundaries between the two
    random = mix(np.arange(len(sizes), dtype=np.uint64)) >> np.uint64(1)
    chosen = begin + random.astype(np.int64) % np.maximum(choices, 1)
    is_cut = choices > 0
    cut = boundaries[np.minimum(chosen, len(boundaries) - 1)]
    return np.where(is_cut, first, starts), np.where(is_cut, cut, stops), np.where(is_cut, last, stops)
