"""Batches of task rows in an order that depends only on the seed and the position.

Shapes: B rows, L tokens of the longest row of the batch, N choices of all of its rows.
"""

from collections.abc import Generator, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from tasks.rows import IGNORED, Row
from tasks.teachers import Answers

WINDOW_BATCHES = 32  # rows of this many global batches are sorted by length, so that there is little padding


class TaskBatches:
    """Endless training batches of one rank. Positions count the rows of all ranks, as in the trainer.

    Args:
        rows: the training rows, at least one.
        batch_rows: rows of a global batch.

    Attributes:
        answers: the predictions of teachers that are part of every batch, if they were made beforehand.
    """

    def __init__(self, rows: Sequence[Row], pad_token_id: int, batch_rows: int, seed: int) -> None:
        self.answers: Answers | None = None
        self.rows, self.pad_token_id, self.batch_rows, self.seed = rows, pad_token_id, batch_rows, seed
        self._lengths = np.array([len(row.input_ids) for row in rows])

    @property
    def steps_per_epoch(self) -> int:
        """Global batches per epoch; the last one is filled up with rows of the same epoch."""
        return -(-len(self.rows) // self.batch_rows)

    def order(self, epoch: int) -> np.ndarray:
        """Return the row numbers of an epoch: each row once, and some again to fill the last batch."""
        generator = np.random.default_rng([self.seed, epoch])
        rows = generator.permutation(len(self.rows))
        rows = np.resize(rows, self.steps_per_epoch * self.batch_rows)
        window = WINDOW_BATCHES * self.batch_rows
        for start in range(0, len(rows), window):
            part = rows[start : start + window]
            rows[start : start + window] = part[np.argsort(self._lengths[part], kind="stable")]
        batches = rows.reshape(-1, self.batch_rows)
        return batches[generator.permutation(len(batches))].reshape(-1)

    def batches(
        self, position: int, micro_rows: int, rank: int = 0, world_size: int = 1
    ) -> Generator[dict[str, Tensor], None, None]:
        """Yield the micro-batches of this rank from a row position on, as `collate` makes them."""
        size = self.steps_per_epoch * self.batch_rows
        while True:
            order = self.order(position // size)
            for start in range(position % size, size, micro_rows * world_size):
                chosen = order[start + rank : start + micro_rows * world_size : world_size]
                yield self.batch(chosen.tolist())
            position = (position // size + 1) * size

    def batch(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        """Return the batch of the rows with these numbers."""
        rows = [self.rows[number] for number in numbers]
        return collate(rows, self.pad_token_id) | (self.answers.of(numbers, rows) if self.answers else {})


def collate(rows: Sequence[Row], pad_token_id: int) -> dict[str, Tensor]:
    """Return a batch of rows padded to the longest, int64 [B, L]; labels are [B], or [B, L] if every token has one.

    Of multiple choice, every choice is a row of the batch, [N, L]; `num_choices` [B] says how many belong together.
    """
    ids, types = ([*_split(rows, name)] for name in ("input_ids", "token_type_ids"))
    length = max(map(len, ids))

    def padded(values: Sequence[list[int]], fill: int) -> Tensor:
        return torch.tensor([[*row, *[fill] * (length - len(row))] for row in values])

    batch = {
        "input_ids": padded(ids, pad_token_id),
        "attention_mask": padded([[1] * len(row) for row in ids], 0),
        "token_type_ids": padded(types, 0),
    }
    if rows[0].choices:
        batch["num_choices"] = torch.tensor([len(row.choices) for row in rows])
    for name in rows[0].labels:
        values = [row.labels[name] for row in rows]
        batch[name] = padded(values, IGNORED) if isinstance(values[0], list) else torch.tensor(values)  # type: ignore[arg-type]
    return batch


def _split(rows: Sequence[Row], name: str) -> Iterator[list[int]]:
    """Yield the tokens of every row, or of every choice of a row."""
    for row in rows:
        values, start = getattr(row, name), 0
        for size in row.choices or (len(values),):
            yield values[start : start + size]
            start += size
