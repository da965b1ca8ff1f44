"""Rows and batches of a corpus at any position: the only file of this folder that knows torch."""

import queue
import threading
from collections import OrderedDict
from collections.abc import Generator, Iterator

import numpy as np
import torch

from corpus.block import build_rows, num_rows
from corpus.manifest import Manifest
from corpus.order import Order
from corpus.shard import read_block

# Fewer rows a go read the same blocks' share of a window for less: 64 are four times slower than 1,024.
_ROWS_PER_READ = 1024
_MAX_CACHE_BYTES = 1 << 30


class RowStream:
    """Rows of `row_tokens` ids in the order of (seed, epoch, position). L is row_tokens.

    Raises ValueError for rows shorter than 8 tokens, and wherever it reads, naming shard and block, for a
    missing or short shard and for changed bytes.
    """

    def __init__(self, manifest: Manifest, row_tokens: int, seed: int) -> None:
        self._manifest = manifest
        self.row_tokens = row_tokens
        tokens, documents = np.array(manifest.blocks.tokens), np.array(manifest.blocks.documents)
        rows = num_rows(tokens, documents, row_tokens)
        self._order = Order(rows, seed)
        self.rows_per_epoch = self._order.rows_per_epoch
        # Text only: without CLS, SEP and padding.
        self.tokens_per_epoch = manifest.totals.tokens
        self._blocks: OrderedDict[int, np.ndarray] = OrderedDict()
        self._cached_bytes = 0
        self._lock = threading.Lock()  # batches read ahead in threads of their own
        # A window of every lane and one block more, for lanes that are just between two windows.
        num_blocks = self._order.num_lanes * (self._order.window_blocks + 1)
        block_bytes = int(rows.max()) * row_tokens * manifest.dtype.itemsize
        self._max_cached_bytes = min(num_blocks * block_bytes, _MAX_CACHE_BYTES)

    def rows(self, positions: np.ndarray) -> np.ndarray:
        """Ids [n, L] of the rows at positions [n], in the corpus's own integer type."""
        blocks, rows = self._order.locate(positions)
        ids = np.empty((len(blocks), self.row_tokens), dtype=self._manifest.dtype)
        for block in np.unique(blocks):
            here = blocks == block
            ids[here] = self._block_rows(int(block))[rows[here]]
        return ids

    def _block_rows(self, block: int) -> np.ndarray:
        with self._lock:
            if block not in self._blocks:
                self._add_to_cache(block)
            self._blocks.move_to_end(block)
            return self._blocks[block]

    def _add_to_cache(self, block: int) -> None:
        ids, lengths = read_block(self._manifest, block)
        tokenizer = self._manifest.tokenizer
        special = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id
        rows = build_rows(ids, lengths, self.row_tokens, *special)
        self._blocks[block] = rows
        self._cached_bytes += rows.nbytes
        while self._cached_bytes > self._max_cached_bytes and len(self._blocks) > 1:
            self._cached_bytes -= self._blocks.popitem(last=False)[1].nbytes

    def batches(
        self, position: int, rows_per_batch: int, rank: int = 0, world_size: int = 1
    ) -> Generator[dict[str, torch.Tensor], None, None]:
        """Batches without end from a position on: int64 input_ids, attention_mask, token_type_ids [B, L].

        The i-th batches of all ranks together are the rows from position + i * rows_per_batch * world_size
        on, of which a rank takes every world_size-th. A thread reads ahead; closing the iterator ends it, and
        what goes wrong in it is raised here.
        """
        if position < 0 or rows_per_batch < 1:
            raise ValueError(f"position ({position}) must be at least 0, rows_per_batch ({rows_per_batch}) at least 1")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank is {rank}, but must lie in 0 to {world_size - 1}")
        reads = self._read_ahead(position + rank, rows_per_batch, world_size)
        return _prefetch(reads, num_items=2 * -(-_ROWS_PER_READ // rows_per_batch))

    def _read_ahead(self, start: int, rows_per_batch: int, stride: int) -> Iterator[dict[str, torch.Tensor]]:
        num_batches = -(-_ROWS_PER_READ // rows_per_batch)
        steps = stride * np.arange(num_batches * rows_per_batch, dtype=np.int64)
        while True:
            ids = self.rows(start + steps)
            for batch in np.split(ids, num_batches):
                yield self._build_batch(batch)
            start += stride * len(steps)

    def _build_batch(self, ids: np.ndarray) -> dict[str, torch.Tensor]:
        input_ids = torch.from_numpy(ids.astype(np.int64))
        # No text gives a special id, so padding is where the padding id is.
        attention_mask = (input_ids != self._manifest.tokenizer.pad_token_id).long()
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": torch.zeros_like(input_ids),
        }


def _prefetch(
    items: Iterator[dict[str, torch.Tensor]], num_items: int
) -> Generator[dict[str, torch.Tensor], None, None]:
    """The same items, made by a daemon thread up to `num_items` ahead."""
    ready: queue.Queue = queue.Queue(num_items)
    stop = threading.Event()

    def offer(item: object) -> None:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def produce() -> None:
        try:
            for item in items:
                offer(item)
                if stop.is_set():
                    return
        except BaseException as error:  # handed over whole: the consumer raises it
            offer(error)

    thread = threading.Thread(target=produce, name="row-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()
