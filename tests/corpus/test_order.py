from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.order import Order

TABLES = st.lists(st.integers(1, 25), min_size=1, max_size=40)
LANES = st.integers(1, 20)
WINDOWS = st.integers(1, 6)


def sequence(order: Order, positions) -> list[tuple[int, int]]:
    blocks, rows = order.locate(np.asarray(positions))
    return list(zip(blocks.tolist(), rows.tolist(), strict=True))


@given(TABLES, LANES, WINDOWS, st.integers(0, 2**40), st.integers(0, 5))
def test_every_row_of_an_epoch_comes_once(table, lanes, window, seed, epoch):
    order = Order(table, seed, lanes, window)
    total = sum(table)
    assert order.rows_per_epoch == total
    rows = sequence(order, np.arange(epoch * total, (epoch + 1) * total))
    assert sorted(rows) == [(block, row) for block, count in enumerate(table) for row in range(count)]


@settings(max_examples=30)
@given(TABLES, LANES, WINDOWS, st.data())
def test_a_position_means_the_same_however_it_is_asked(table, lanes, window, data):
    positions = data.draw(st.lists(st.integers(0, 4 * sum(table)), max_size=20))
    together = sequence(Order(table, 3, lanes, window), np.array(positions, dtype=np.int64))
    fresh = [sequence(Order(table, 3, lanes, window), [position])[0] for position in positions]
    assert together == fresh


@given(TABLES, st.integers(1, 9), st.integers(0, 100))
def test_ranks_interleave_to_one_sequence(table, world_size, start):
    order = Order(table, 5, 4, 2)
    count = 12 * world_size
    ranks = [sequence(order, np.arange(start + rank, start + count, world_size)) for rank in range(world_size)]
    merged = [ranks[index % world_size][index // world_size] for index in range(count)]
    assert merged == sequence(order, np.arange(start, start + count))


def test_a_rank_reads_only_the_blocks_of_its_lanes():
    order = Order([10] * 64, 1, num_lanes=16, window_blocks=2)  # equal lanes: no ragged tail
    for world_size in (2, 4, 8, 16):
        seen = [
            {block for block, _ in sequence(order, np.arange(rank, order.rows_per_epoch, world_size))}
            for rank in range(world_size)
        ]
        assert all(len(blocks) == 64 // world_size for blocks in seen)
        assert set.union(*seen) == set(range(64))


def test_open_blocks_stay_few():
    """A window of a lane is finished before the next begins: that is what a cache of blocks relies on."""
    lanes, window = 4, 3
    order = Order([20] * 48, 9, lanes, window)
    blocks, _ = order.locate(np.arange(order.rows_per_epoch))
    first = {int(block): int(np.flatnonzero(blocks == block)[0]) for block in range(48)}
    last = {int(block): int(np.flatnonzero(blocks == block)[-1]) for block in range(48)}
    most = max(sum(first[b] <= now <= last[b] for b in range(48)) for now in range(order.rows_per_epoch))
    assert most <= lanes * window


def test_seeds_and_epochs_shuffle_differently():
    table = [30] * 20
    epochs = [tuple(sequence(Order(table, seed), np.arange(600) + 600 * epoch)) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(epochs)) == 4
    in_file_order = sum(a[0] == b[0] and b[1] == a[1] + 1 for a, b in pairwise(epochs[0]))
    assert in_file_order < 20


def test_order_never_changes_between_releases():
    """A checkpoint stores a position, so these figures may not change without a new format version."""
    order = Order([3, 5, 2, 7, 4, 6, 1, 8], 17, num_lanes=3, window_blocks=2)
    expected = [(3, 0), (4, 3), (1, 1), (3, 4), (7, 1), (7, 5), (5, 3), (3, 4)]
    assert sequence(order, [0, 1, 2, 3, 20, 35, 36, 1000]) == expected


@settings(max_examples=30)
@given(st.lists(st.integers(50, 60), min_size=100, max_size=200), st.integers(2, 32))
def test_lanes_are_nearly_equal(table, lanes):
    """Positions of the last round of the shortest lane: nearly all of the epoch lies before."""
    order = Order(table, 2, lanes, 4)
    state = order._epoch(0)
    sizes = np.diff([*state.lane_starts, sum(table)])
    assert sizes.sum() == sum(table) and sizes.max() - sizes.min() <= 2 * 60


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], 1), "at least one block"),
        (([3, 0], 1), "each of at least one row"),
        (([3], -1), "seed is -1, but must not be negative"),
        (([3], 1, 0), r"num_lanes \(0\) and window_blocks \(4\) must be at least 1"),
    ],
)
def test_impossible_orders_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Order(*arguments)


def test_negative_positions_are_refused():
    with pytest.raises(ValueError, match="none of them negative"):
        Order([3], 1).locate(np.array([0, -1]))
