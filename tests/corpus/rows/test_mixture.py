from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.rows.mixture import Mixture, source_weights

TABLE, SOURCES = [5, 9, 1, 4, 7, 3, 8, 2], [0, 0, 0, 1, 1, 1, 2, 2]


def shown(mixture: Mixture, epoch: int) -> Counter:
    blocks, firsts, counts = mixture.runs(epoch)
    runs = zip(blocks.tolist(), firsts.tolist(), counts.tolist(), strict=True)
    rows = Counter((block, first + row) for block, first, count in runs for row in range(count))
    assert rows.total() == mixture.rows_per_epoch
    return rows


def test_without_weights_an_epoch_is_every_block_whole():
    blocks, firsts, counts = Mixture(TABLE, 1, SOURCES).runs(3)
    assert blocks.tolist() == list(range(8)) and not firsts.any() and counts.tolist() == TABLE


@given(st.floats(0.05, 3.5), st.integers(0, 5), st.integers(0, 50))
def test_every_row_occurs_as_often_as_its_weight_says(weight, epoch, seed):
    mixture = Mixture(TABLE, seed, SOURCES, [weight, 1.0, 0.0])
    share = mixture.rows_per_source[0] / 15
    assert abs(share - weight) <= 1 / 15 and mixture.rows_per_source[1:] == [14, 0]
    rows = [shown(mixture, number) for number in range(epoch + 1)]
    assert all(sum(row[0] in (3, 4, 5) for row in counter.elements()) == 14 for counter in rows)
    total = sum(rows, Counter())
    times = [total[block, row] for block in range(3) for row in range(TABLE[block])]
    assert max(times) - min(times) <= 1, "over epochs too, no row is ahead of another by more than one"


def test_the_half_of_the_next_epoch_is_the_other_half():
    mixture = Mixture(TABLE, 1, [0] * 4 + [1] * 4, [1.0, 0.5])
    halves = [{row for row in shown(mixture, epoch) if row[0] >= 4} for epoch in range(6)]
    assert all(len(half) == 10 for half in halves)
    for first, second in zip(halves[::2], halves[1::2], strict=True):
        assert not first & second and len(first | second) == 20
    assert len({frozenset(half) for half in halves}) > 2, "the halves are other ones in the next pass"


def test_a_small_share_opens_few_blocks():
    """A tenth of the rows are a tenth of the blocks, and not a tenth of each."""
    mixture = Mixture([100] * 200, 1, [0] * 200, [0.1])
    assert len(mixture.runs(4)[0]) <= 20 + 2


def test_a_weighted_source_is_never_left_out():
    assert Mixture(TABLE, 1, SOURCES, [0.001, 1, 1]).rows_per_source[0] == 1


def test_a_source_without_documents_is_allowed():
    mixture, plain = (Mixture(TABLE, 1, SOURCES, weights) for weights in ([1, 2, 1, 1], [1, 2, 1]))
    assert mixture.rows_per_source == [*plain.rows_per_source, 0]
    assert all(np.array_equal(*columns) for columns in zip(mixture.runs(3), plain.runs(3), strict=True))


def test_weights_by_name():
    assert source_weights(["law", "news", "web"], {"news": 0.2}) == [1.0, 0.2, 1.0]
    with pytest.raises(ValueError, match="no source is named laws; the sources are law, news"):
        source_weights(["law", "news"], {"laws": 1.0})
    for weight in (-1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=f"weights: law is {weight}, but must be a number of at least 0"):
            source_weights(["law"], {"law": weight})
