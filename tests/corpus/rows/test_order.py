from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.rows.order import Order

TABLES = st.lists(st.integers(1, 25), min_size=1, max_size=40)
LANES = st.integers(1, 20)
WINDOWS = st.integers(1, 6)


def sequence(order: Order, positions) -> list[tuple[int, int]]:
    blocks, rows = order.locate(np.asarray(positions))
    return list(zip(blocks.tolist(), rows.tolist(), strict=True))


@given(TABLES, LANES, WINDOWS, st.integers(0, 2**40), st.integers(0, 5))
def test_every_row_of_an_epoch_occurs_once(table, lanes, window, seed, epoch):
    order = Order(table, seed, lanes, window)
    total = sum(table)
    assert order.rows_per_epoch == total
    rows = sequence(order, np.arange(epoch * total, (epoch + 1) * total))
    assert sorted(rows) == [(block, row) for block, count in enumerate(table) for row in range(count)]


@settings(max_examples=30)
@given(TABLES, LANES, WINDOWS, st.data())
def test_a_position_means_the_same_alone_and_in_batches(table, lanes, window, data):
    positions = data.draw(st.lists(st.integers(0, 4 * sum(table)), max_size=20))
    together = sequence(Order(table, 3, lanes, window), np.array(positions, dtype=np.int64))
    fresh = [sequence(Order(table, 3, lanes, window), [position])[0] for position in positions]
    assert together == fresh


@pytest.mark.parametrize("table", [[10] * 64, [7, 31, 2, 19] * 30])
def test_a_rank_reads_little_more_than_its_share_of_blocks(table):
    order = Order(table, 1, num_lanes=16, window_blocks=2)
    for world_size in (2, 4, 8, 16):
        ranks = [sequence(order, np.arange(rank, order.rows_per_epoch, world_size)) for rank in range(world_size)]
        seen = [{block for block, _ in rows} for rows in ranks]
        assert sum(map(len, seen)) <= len(table) + world_size  # blocks at the borders are read by two
        assert set.union(*seen) == set(range(len(table)))


def test_few_blocks_are_open_at_a_time():
    """A window of a lane is finished before the next begins: that is what the room for open blocks relies on."""
    lanes, window = 4, 3
    order = Order([20] * 96, 9, lanes, window)
    for slot in range(lanes):
        blocks, _ = order.locate(np.arange(slot, order.rows_per_epoch, lanes))
        places = {int(block): np.flatnonzero(blocks == block) for block in np.unique(blocks)}
        spans = [(int(where[0]), int(where[-1])) for where in places.values()]
        most = max(sum(first <= now <= last for first, last in spans) for now in range(len(blocks)))
        assert most <= window + 2


def test_lanes_change_windows_at_different_times():
    """Else all ranks would wait for the reading of a window of every lane at once."""
    order = Order([20] * 640, 9, num_lanes=16, window_blocks=2)
    blocks, _ = order.locate(np.arange(order.rows_per_epoch))
    first = np.sort([np.flatnonzero(blocks == block)[0] for block in range(640)])
    opened = np.histogram(first, bins=20, range=(0, order.rows_per_epoch))[0]
    assert opened[2:-2].max() <= 1.5 * opened[2:-2].mean()


def test_a_mixture_shows_rows_by_weight():
    """A third of one source, twice another, in lanes and windows like any rows."""
    table, sources = [9, 8, 7, 6, 5, 4], [0, 0, 0, 1, 1, 1]
    order = Order(table, 4, 3, 2, source_of_block=sources, weights=[1 / 3, 2.0])
    assert order.rows_per_epoch == 8 + 30 and order.rows_per_source == [8, 30]
    epochs = [sequence(order, np.arange(38) + 38 * epoch) for epoch in range(3)]
    every = [(block, row) for block in range(6) for row in range(table[block])]
    assert sorted(row for epoch in epochs for row in epoch if row[0] < 3) == every[:24]
    for epoch in epochs:
        assert sorted(row for row in epoch if row[0] >= 3) == sorted(2 * every[24:])


def test_seeds_and_epochs_shuffle_differently():
    table = [30] * 20
    epochs = [tuple(sequence(Order(table, seed), np.arange(600) + 600 * epoch)) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(epochs)) == 4
    in_file_order = sum(a[0] == b[0] and b[1] == a[1] + 1 for a, b in pairwise(epochs[0]))
    assert in_file_order < 20


def test_order_never_changes_between_releases():
    """A checkpoint stores a position, so these figures may not change without a new format version."""
    order = Order([3, 5, 2, 7, 4, 6, 1, 8], 17, num_lanes=3, window_blocks=2)
    expected = [(3, 2), (7, 4), (5, 2), (3, 5), (4, 1), (7, 0), (5, 2), (3, 3)]
    assert sequence(order, [0, 1, 2, 3, 20, 35, 36, 1000]) == expected
    mixed = Order([3, 5, 2], 17, 2, 1, source_of_block=[0, 0, 1], weights=[0.75, 2])
    assert sequence(mixed, [0, 1, 2, 3, 4, 5, 57]) == [(2, 1), (2, 0), (2, 0), (2, 1), (0, 1), (1, 1), (1, 2)]


@settings(max_examples=30)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=50), st.integers(1, 32))
def test_lanes_are_equal_to_a_row(table, lanes):
    order = Order(table, 2, lanes, 4)
    assert order._sizes.sum() == sum(table) and np.ptp(order._sizes) <= 1
    begins, ends = np.sort(order._starts), np.sort(order._starts + order._sizes)
    assert begins[0] == 0 and (begins[1:] == ends[:-1]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], 1), "at least one block"),
        (([3, 0], 1), "each of at least one row"),
        (([3], -1), "seed is -1, but must not be negative"),
        (([3], 1, 0), r"num_lanes \(0\) and window_blocks \(8\) must be at least 1"),
    ],
)
def test_impossible_orders_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Order(*arguments)


def test_negative_positions_are_refused():
    with pytest.raises(ValueError, match="none of them negative"):
        Order([3], 1).locate(np.array([0, -1]))
