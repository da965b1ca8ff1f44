"""What an epoch is made of: runs of rows of blocks, a source weighted by how often an epoch shows it.

A source's blocks, permuted anew in every pass over it, make one endless sequence of rows, of which each epoch
takes the next rows x weight: half of them at 0.5 and the other half in the next epoch, all of them twice at 2.
So an epoch opens only the blocks that it shows, and every epoch has the same number of rows.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from corpus.permutation import permutation

_PASS = 2


class Mixture:
    """The blocks' rows `rows_per_block` [N] of sources `source_of_block` [N], weighted by `weights` [sources]."""

    def __init__(
        self,
        rows_per_block: np.ndarray,
        seed: int,
        source_of_block: np.ndarray | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        self._rows = np.asarray(rows_per_block, dtype=np.int64)
        if self._rows.ndim != 1 or not len(self._rows) or self._rows.min() < 1:
            raise ValueError("rows_per_block must be a list of at least one block, each of at least one row")
        self._seed = seed
        sources = np.zeros_like(self._rows) if source_of_block is None else np.asarray(source_of_block)
        weights = [1.0] * (int(sources.max()) + 1) if weights is None else weights
        self._blocks = [np.flatnonzero(sources == source) for source in range(len(weights))]  # of some sources none
        self.rows_per_source = [
            _num_shown(int(self._rows[blocks].sum()), weight)
            for blocks, weight in zip(self._blocks, weights, strict=True)
        ]
        self.rows_per_epoch = sum(self.rows_per_source)
        if not self.rows_per_epoch:
            raise ValueError("every source has the weight 0, so no row is left")

    def runs(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Block, first row in it and number of rows of each run of an epoch: int64 [runs] each, by block."""
        parts = [self._source_runs(source, epoch) for source in range(len(self._blocks))]
        blocks, firsts, counts = (np.concatenate(column) for column in zip(*parts, strict=True))
        by_block = np.lexsort((firsts, blocks))
        return blocks[by_block], firsts[by_block], counts[by_block]

    def _source_runs(self, source: int, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The rows of the source's endless sequence from begin to end, as runs."""
        total = int(self._rows[self._blocks[source]].sum())
        begin = epoch * self.rows_per_source[source]
        end = begin + self.rows_per_source[source]
        passes = range(begin // total, -(-end // total)) if end > begin else range(0)
        blocks = np.concatenate([self._blocks[source][:0], *(self._pass(source, number) for number in passes)])
        starts = np.cumsum(self._rows[blocks]) - self._rows[blocks] + passes.start * total
        firsts = np.clip(begin - starts, 0, self._rows[blocks])
        counts = np.clip(end - starts, 0, self._rows[blocks]) - firsts
        shown = counts > 0
        return blocks[shown], firsts[shown], counts[shown]

    def _pass(self, source: int, number: int) -> np.ndarray:
        blocks = self._blocks[source]
        return blocks[permutation(len(blocks), self._seed, _PASS, source, number)]


def _num_shown(num_rows: int, weight: float) -> int:
    """At least one row of a source that is wanted at all."""
    return max(round(num_rows * weight), 1) if num_rows and weight else 0


def source_weights(names: Sequence[str], weights: Mapping[str, float]) -> list[float]:
    """The weight of each named source, 1 where none is given; ValueError for unknown names and bad weights."""
    if unknown := sorted(weights.keys() - set(names)):
        raise ValueError(f"weights: no source is named {', '.join(unknown)}; the sources are {', '.join(names)}")
    for name, weight in weights.items():
        if not 0 <= weight < float("inf"):
            raise ValueError(f"weights: {name} is {weight}, but must be a number of at least 0")
    return [weights.get(name, 1.0) for name in names]
