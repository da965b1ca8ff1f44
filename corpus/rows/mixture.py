"""The mixture of sources in an epoch: which rows of which blocks it shows, by the sources' weights.

The blocks of a source, permuted anew in every pass over it, form an endless sequence of rows. Each epoch takes the
next rows x weight of them: at weight 0.5 one half, with the other half in the next epoch; at weight 2 every row twice.
So an epoch reads only the blocks that it shows, and all epochs have the same number of rows.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from corpus.permutation import permutation

_PASS = 2


class Mixture:
    """The rows of each epoch.

    Args:
        rows_per_block: int [N].
        source_of_block: int [N], the index of each block's source; default: one source.
        weights: [sources], how often an epoch shows each row of the source; default: 1.

    Attributes:
        rows_per_epoch: rows of every epoch.
        rows_per_source: rows of every epoch by source.

    Raises ValueError if a block has no rows, or all weights are 0.
    """

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
        self._blocks = [np.flatnonzero(sources == source) for source in range(len(weights))]  # may be empty
        self.rows_per_source = [
            _num_shown(int(self._rows[blocks].sum()), weight)
            for blocks, weight in zip(self._blocks, weights, strict=True)
        ]
        self.rows_per_epoch = sum(self.rows_per_source)
        if not self.rows_per_epoch:
            raise ValueError("every source has the weight 0, so no row is left")

    def runs(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the runs of rows of an epoch: block, first row in it, number of rows; int64 [runs] each, by block."""
        parts = [self._source_runs(source, epoch) for source in range(len(self._blocks))]
        blocks, firsts, counts = (np.concatenate(column) for column in zip(*parts, strict=True))
        by_block = np.lexsort((firsts, blocks))
        return blocks[by_block], firsts[by_block], counts[by_block]

    def _source_runs(self, source: int, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The rows of an epoch from one source's endless sequence, as runs."""
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
    """Rows of a source in an epoch: at least one unless the weight is 0."""
    return max(round(num_rows * weight), 1) if num_rows and weight else 0


def source_weights(names: Sequence[str], weights: Mapping[str, float]) -> list[float]:
    """Return the weight of each source in order, 1 by default. Raise ValueError for unknown names and bad weights."""
    if unknown := sorted(weights.keys() - set(names)):
        raise ValueError(f"weights: no source is named {', '.join(unknown)}; the sources are {', '.join(names)}")
    for name, weight in weights.items():
        if not 0 <= weight < float("inf"):
            raise ValueError(f"weights: {name} is {weight}, but must be a number of at least 0")
    return [weights.get(name, 1.0) for name in names]
