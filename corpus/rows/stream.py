"""Rows and batches of a corpus, from any position on."""

import math
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
import torch

from corpus.progress import track
from corpus.rows.document_places import begins_of, document_places
from corpus.rows.length_buckets import LengthBuckets
from corpus.rows.masking import Masker, MaskingSettings
from corpus.rows.mixture import source_weights
from corpus.rows.open_blocks import OpenBlocks, Planes
from corpus.rows.order import NUM_LANES, WINDOW_BLOCKS, Order
from corpus.rows.packing import (
    Frame,
    RowKind,
    build_apart_rows,
    build_empty_rows,
    build_packed_rows,
    build_pair_rows,
    build_text_rows,
    check_frame,
    check_rows,
    num_packed_rows,
    num_padded_rows,
)
from corpus.rows.prompts import insert_prompt
from corpus.rows.read_ahead import Batch, read_ahead
from corpus.rows.sentence_pairs import SentencePairs
from corpus.shards.block import Block
from corpus.shards.manifest import Manifest, OnFault
from corpus.shards.shard import DamagedBlock, read_blocks, read_sound_blocks

# Larger reads cost less a row; the first ones are smaller, so that the first batch comes soon.
_ROWS_PER_READ = 2048
_MAX_OPEN_BYTES = 1 << 30
_POSITIONS_AT_ONCE = 1 << 20


def frame_of(manifest: Manifest) -> Frame:
    """Return what stands around a text in the rows of a corpus."""
    tokenizer = manifest.tokenizer
    return Frame(tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id)


def count_padded_rows(
    kind: RowKind, manifest: Manifest, row_tokens: int, indexes: Sequence[int], progress: bool = True
) -> np.ndarray:
    """Return the number of pairs or texts of each of these blocks, int64 [indexes]. Reads the blocks."""
    check_rows(kind, row_tokens)
    blocks = read_blocks(manifest, list(indexes))
    tracked = track(blocks, f"counting {kind}", len(indexes), "blocks") if progress else blocks
    framing = frame_of(manifest).num_tokens
    counts = [num_padded_rows(kind, block.lengths, row_tokens, framing).sum() for block in tracked]
    return np.array(counts, dtype=np.int64)


class RowStream:
    """The rows of a corpus in shuffled order, for training: `for batch in stream.batches(position, rows_per_batch)`.

    The order is a pure function of the seed and the position, which counts rows since training began over all epochs.

    Args:
        manifest: from `load_manifest`.
        row_tokens: L, the tokens of a row, at least 8.
        seed: of the order and of the masks.
        weights: how often an epoch shows each row of a source, by the source's name; 1 by default.
        kind: "packed", "pairs" or "texts" (corpus/rows/packing.py).
        documents_apart: batches say which tokens belong to a document and where they stand in it (see `batches`), and
            every packed document begins with a CLS.
        continues_word: whether batches have this tensor (see `batches`).
        masking: mask tokens for masked language modelling, and add labels to batches.
        on_fault: "stop" raises for a damaged block. "skip" warns once and gives empty rows (`CLS SEP` and padding) in
            its place, so that all other rows keep their positions.
        num_lanes: with a multiple of the number of ranks, each rank reads its share of the bytes. Another number gives
            another order.
        num_rows: pairs or texts of each block, int64 [blocks], from `count_padded_rows`; by default all blocks are read
            to count them.
        rows_per_step: rows of a step of all ranks, for `bucket_steps`.
        bucket_steps: of pairs and texts, the steps in which rows are sorted by length (corpus/rows/length_buckets.py);
            every rank then reads all blocks.
        prompt: ids that stand after the CLS of every text; texts are cut shorter by so many.
        gives_places: whether batches have `block` and `row`, int64 [B]: where each row lies in the corpus.
        gives_draws: with masking, whether batches have `draws` (see `batches`).
        sentence_ends: ids of pieces that end sentences: pairs are cut there, and half of them are swapped
            (corpus/rows/sentence_pairs.py).

    Attributes:
        rows_per_epoch: rows of every epoch.

    Raises ValueError for rows that are too short, unknown sources, and features that the corpus or its tokenizer lacks.
    Reading raises DamagedBlock (a ValueError naming shard and block) for missing, truncated or changed shards, and
    StoreLost if the store cannot be read.
    """

    def __init__(
        self,
        manifest: Manifest,
        row_tokens: int,
        seed: int,
        weights: Mapping[str, float] | None = None,
        kind: RowKind = "packed",
        documents_apart: bool = False,
        continues_word: bool = False,
        masking: MaskingSettings | None = None,
        on_fault: OnFault = "stop",
        num_lanes: int = NUM_LANES,
        num_rows: np.ndarray | None = None,
        rows_per_step: int = 1,
        bucket_steps: int = 1,
        prompt: Sequence[int] = (),
        gives_places: bool = False,
        gives_draws: bool = False,
        sentence_ends: Sequence[int] = (),
    ) -> None:
        self._prompt, self._text_tokens = torch.tensor(prompt, dtype=torch.int64), row_tokens - len(prompt)
        check_rows(kind, self._text_tokens)
        self._frame = frame_of(manifest)
        check_frame(kind, self._frame, documents_apart, on_fault == "skip")
        self._masker = Masker(manifest, masking, seed) if masking else None
        if continues_word and not manifest.has_word_planes:
            raise ValueError(f"{manifest.store.location}: the corpus was built without word planes")
        self._sentence_pairs = SentencePairs(sentence_ends, self._frame, seed) if sentence_ends else None
        self._manifest, self._gives_draws = manifest, gives_draws
        self.row_tokens, self._kind, self._gives_places = row_tokens, kind, gives_places
        self._seed, self._step_rows = seed, rows_per_step
        self._bucket_steps = 1 if kind == "packed" else bucket_steps
        self._read_blocks = read_blocks if on_fault == "stop" else self._read_sound_blocks
        self._damaged: set[str] = set()  # already warned of
        self._documents_apart, self._gives_words = documents_apart, continues_word
        self._reads_words = continues_word or (masking is not None and masking.whole_words)
        table, names = manifest.blocks, [source.name for source in manifest.sources]
        if kind == "packed":
            tokens, documents = np.array(table.tokens), np.array(table.documents)
            num_rows = num_packed_rows(tokens, documents, row_tokens, documents_apart, self._frame.num_tokens)
        every = range(len(table))
        self._num_rows = count_padded_rows(kind, manifest, self._text_tokens, every) if num_rows is None else num_rows
        weights_of_sources = source_weights(names, weights or {})
        self._order = Order(self._num_rows, seed, num_lanes, WINDOW_BLOCKS, np.array(table.source), weights_of_sources)
        self.rows_per_epoch = self._order.rows_per_epoch

    @property
    def tokens_per_epoch(self) -> int:
        """Tokens of text in an epoch, without CLS, SEP and padding; exact if all weights are whole numbers."""
        rows = np.bincount(self._manifest.blocks.source, self._num_rows)
        tokens = np.bincount(self._manifest.blocks.source, self._manifest.blocks.tokens)
        shown = self._order.rows_per_source[: len(rows)]
        return round(float(np.sum(tokens * shown / np.maximum(rows, 1))))

    def rows(self, positions: np.ndarray) -> np.ndarray:
        """Return the ids [n, L] of the rows at positions int64 [n], in the corpus's dtype (uint16 or uint32).

        They are in the order that knows no lengths, and without the prompt.
        """
        return self._open_blocks.take(*self._order.locate(positions))[0]

    def shown(self, num_rows: int) -> dict[int, np.ndarray]:
        """Return by block which of its rows are among the first `num_rows` of training, bool [rows of the block].

        Blocks that show none are left out. Sorted by length, the rows of a last window are all counted.
        """
        window = self._bucket_steps * self._step_rows if self._bucket_steps > 1 else 1
        end = -(-num_rows // window) * window
        starts = np.concatenate([[0], np.cumsum(self._num_rows)])
        shown = np.zeros(starts[-1], dtype=bool)
        for start in range(0, end, _POSITIONS_AT_ONCE):
            blocks, rows = self._order.locate(np.arange(start, min(end, start + _POSITIONS_AT_ONCE)))
            shown[starts[blocks] + rows] = True
        parts = np.split(shown, starts[1:-1])
        return {index: part for index, part in enumerate(parts) if part.any()}

    def rows_of(self, blocks: Sequence[int]) -> Iterator[Batch]:
        """Yield all rows of blocks, a batch a block, as in `batches` but never masked."""
        for planes in self._read_rows(list(blocks)):
            yield self._to_batch(planes)

    @cached_property
    def _open_blocks(self) -> OpenBlocks:
        return self._build_open_blocks(self._order.num_lanes)

    def _build_open_blocks(self, num_lanes: int) -> OpenBlocks:
        most_rows = max(_ROWS_PER_READ, self._bucket_steps * self._step_rows)
        num_pages = self._order.num_open_blocks(num_lanes, most_rows)
        dtypes = (self._manifest.dtype, np.dtype(bool))[: 1 + self._reads_words]
        return OpenBlocks(self._read_rows, self._num_rows, self._text_tokens, dtypes, num_pages, _MAX_OPEN_BYTES)

    def _read_rows(self, blocks: list[int]) -> Iterator[Planes]:
        frame, dtype = self._frame, self._manifest.dtype
        build_packed = build_apart_rows if self._documents_apart else build_packed_rows
        build_rows = {"pairs": build_pair_rows, "texts": build_text_rows}.get(self._kind, build_packed)
        for index, block in zip(blocks, self._read_blocks(self._manifest, blocks), strict=True):
            if block is None:
                empty = build_empty_rows(int(self._num_rows[index]), self._text_tokens, dtype, frame)
                yield (empty, np.zeros(empty.shape, dtype=bool))[: 1 + self._reads_words]
                continue
            ids, lengths, plane = block
            if self._sentence_pairs:
                build_rows = self._sentence_pairs.builder(ids)
            rows = build_rows(ids, lengths, self._text_tokens, frame)
            if self._reads_words and plane is not None:
                yield rows, build_rows(plane, lengths, self._text_tokens, frame.of_planes)
            else:
                yield (rows,)

    def _read_sound_blocks(self, manifest: Manifest, blocks: list[int]) -> Iterator[Block | None]:
        for block in read_sound_blocks(manifest, blocks):
            if not isinstance(block, DamagedBlock):
                yield block
                continue
            if str(block) not in self._damaged:
                self._damaged.add(str(block))
                warnings.warn(f"{block}; its rows are skipped", stacklevel=2)
            yield None

    def batches(
        self, position: int, rows_per_batch: int, rank: int = 0, world_size: int = 1
    ) -> Generator[Batch, None, None]:
        """Yield batches without end, from a position on. A thread reads ahead; closing the iterator stops it.

        Args:
            position: the first row, counted since training began; at least 0.
            rows_per_batch: B, the rows of each batch of this rank.
            rank, world_size: the i-th batches of all ranks together are the rows from position + i * B * world_size on,
                of which a rank takes every world_size-th.

        Batches are dicts of int64 tensors [B, L]: input_ids, attention_mask and token_type_ids, and if asked for:
            document_ids: the number of a token's document in its row, from 0; -1 for padding. So
                `document_ids[:, :, None] == document_ids[:, None, :]` is the mask for attention within documents.
            position_ids: the place of a token in its document, whose CLS is at 0; 0 for padding.
            continues_word: 1 for a token that continues the word of the token before it.
            labels: with masking, the original id of tokens to predict, and -100 elsewhere (corpus/rows/masking.py).
            draws: a random number from 0 to below 1 for each token, float64, for objectives that sample tokens.
            order_labels: int64 [B], 1 for a pair that was swapped, 0 for one that was not, -100 for a row of one text.

        Raises ValueError for impossible arguments at once, and while iterating whatever reading raises.
        """
        if position < 0 or rows_per_batch < 1:
            raise ValueError(f"position ({position}) must be at least 0, rows_per_batch ({rows_per_batch}) at least 1")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank is {rank}, but must lie in 0 to {world_size - 1}")
        return read_ahead(self._reads(position + rank, rows_per_batch, world_size))

    def _reads(self, start: int, rows_per_batch: int, stride: int) -> Iterator[list[Batch]]:
        num_lanes = self._order.num_lanes
        is_bucketed = self._bucket_steps > 1  # by lengths of all ranks' rows
        open_blocks = self._build_open_blocks(num_lanes if is_bucketed else num_lanes // math.gcd(num_lanes, stride))
        buckets = LengthBuckets(
            self._step_rows, self._bucket_steps, self._seed, lambda positions: self._lengths(open_blocks, positions)
        )
        num_batches, most = 1, -(-_ROWS_PER_READ // rows_per_batch)
        while True:
            positions = start + stride * np.arange(num_batches * rows_per_batch, dtype=np.int64)
            read = self._build_batch(open_blocks, buckets.sources(positions) if is_bucketed else positions)
            parts = {name: tensor.split(rows_per_batch) for name, tensor in read.items()}
            yield [dict(zip(parts, tensors, strict=True)) for tensors in zip(*parts.values(), strict=True)]
            start += stride * len(positions)
            num_batches = min(2 * num_batches, most)

    def _lengths(self, open_blocks: OpenBlocks, positions: np.ndarray) -> np.ndarray:
        """Return the number of real tokens of the rows at these positions, int64 [n]."""
        (ids, *_) = open_blocks.take(*self._order.locate(positions))
        return np.count_nonzero(ids != self._frame.pad, axis=1)

    def _build_batch(self, open_blocks: OpenBlocks, positions: np.ndarray) -> Batch:
        places = self._order.locate(positions)
        batch = self._to_batch(open_blocks.take(*places), positions)
        if self._gives_places:
            batch |= zip(("block", "row"), map(torch.from_numpy, places), strict=True)
        return batch

    def _to_batch(self, planes: Planes, positions: np.ndarray | None = None) -> Batch:
        frame, swapped = self._frame, {}
        if self._sentence_pairs and positions is not None:
            planes, swapped["order_labels"] = self._sentence_pairs.swap_half(planes, positions)
        ids = planes[0]
        # Text never contains special ids: a padding id is padding, and SEP ends a text.
        is_real = ids != frame.pad
        batch = {"input_ids": ids.astype(np.int64), "attention_mask": is_real.astype(np.int64), **swapped}
        if self._documents_apart:
            batch |= document_places(begins_of(ids, frame), is_real)
        if self._gives_words:
            batch["continues_word"] = planes[1].astype(np.int64)
        if self._masker and positions is not None:
            batch["input_ids"], batch["labels"] = self._masker.mask(ids, positions, *planes[1:])
            if self._gives_draws:
                batch["draws"] = self._masker.draws(positions, ids.shape[1])
        if self._kind == "pairs":
            ends = ids == frame.sep
            texts_before = np.cumsum(ends, axis=1, dtype=np.int64) - ends
            batch["token_type_ids"] = ((texts_before == 1) & is_real).astype(np.int64)
        tensors = {name: torch.from_numpy(values) for name, values in batch.items()}
        # All elements share one zero in memory, so nothing may be written to it.
        types = {"token_type_ids": torch.zeros(1, dtype=torch.int64).expand(ids.shape)}
        return insert_prompt(types | tensors, self._prompt, self._frame)
