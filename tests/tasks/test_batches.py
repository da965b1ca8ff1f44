"""The order of rows depends on seed and position only: none is lost or repeated on any number of ranks."""

from itertools import islice

import numpy as np
import pytest
import torch

from tasks.batches import TaskBatches, collate
from tasks.rows import IGNORED, Row

PAD, BATCH_ROWS = 9, 8


def rows(number):
    """Row n: its number, then as many tokens again as a draw says."""
    lengths = np.random.default_rng(5).integers(1, 40, number)
    return [Row([index] + [1] * int(length), [0] * (int(length) + 1), {"labels": index % 3}, index) for index, length
            in enumerate(lengths)]  # fmt: skip


@pytest.fixture(scope="module")
def batches():
    return TaskBatches(rows(100), PAD, BATCH_ROWS, seed=3)


def numbers(micro_batches):
    """Row numbers of micro-batches, in order."""
    return [int(number) for one in micro_batches for number in one["input_ids"][:, 0]]


@pytest.mark.parametrize("number", [1, 5, 8, 96, 100, 600])
def test_an_epoch_holds_every_row_and_fills_its_last_batch(number):
    batches = TaskBatches(rows(number), PAD, BATCH_ROWS, seed=3)
    steps = batches.steps_per_epoch
    assert steps == -(-number // BATCH_ROWS)
    for epoch in range(3):
        order = batches.order(epoch).tolist()
        counts = np.bincount(order, minlength=number)
        assert len(order) == steps * BATCH_ROWS and counts.min() >= 1 and counts.max() <= -(-len(order) // number)
        assert order == numbers(islice(batches.batches(epoch * steps * BATCH_ROWS, BATCH_ROWS), steps))


def test_a_position_is_that_many_rows_skipped(batches):
    whole = numbers(islice(batches.batches(0, BATCH_ROWS), 40))  # three epochs of 13 steps, and one step
    for step in (1, 12, 13, 14, 26, 39):
        assert numbers(islice(batches.batches(step * BATCH_ROWS, BATCH_ROWS), 40 - step)) == whole[step * BATCH_ROWS :]


@pytest.mark.parametrize(("micro_rows", "world_size"), [(4, 1), (4, 2), (2, 2), (1, 4), (1, 8)])
def test_ranks_and_micro_batches_share_the_same_rows_in_the_same_order(batches, micro_rows, world_size):
    steps, accumulated = 15, BATCH_ROWS // micro_rows // world_size
    whole = numbers(islice(batches.batches(0, BATCH_ROWS), steps))
    ranks = [
        numbers(islice(batches.batches(0, micro_rows, rank, world_size), steps * accumulated))
        for rank in range(world_size)
    ]
    assert [ranks[place % world_size][place // world_size] for place in range(len(whole))] == whole


def test_the_order_is_the_seeds_and_differs_by_epoch(batches):
    assert batches.order(0).tolist() == TaskBatches(rows(100), PAD, BATCH_ROWS, seed=3).order(0).tolist()
    assert batches.order(0).tolist() != batches.order(1).tolist()
    assert batches.order(0).tolist() != TaskBatches(rows(100), PAD, BATCH_ROWS, seed=4).order(0).tolist()


def test_batches_of_like_lengths_come_in_any_order_and_hold_little_padding():
    batches = TaskBatches(rows(600), PAD, BATCH_ROWS, seed=3)

    def num_padding(order):
        lengths = np.array([len(batches.rows[row].input_ids) for row in order]).reshape(-1, BATCH_ROWS)
        return int((lengths.max(1, keepdims=True) - lengths).sum()), lengths.mean(1)

    (sorted_padding, means), (unsorted_padding, _) = num_padding(batches.order(0)), num_padding(range(600))
    assert sorted_padding * 5 < unsorted_padding
    assert 0.25 < (np.diff(means) > 0).mean() < 0.75  # neither rising nor falling


def test_rows_are_padded_to_the_longest():
    parts = [Row([5, 6, 7], [0, 1, 1], {"labels": 2}, 0), Row([5], [1], {"labels": 0}, 1)]
    batch = collate(parts, PAD)
    assert {name: values.tolist() for name, values in batch.items()} == {
        "input_ids": [[5, 6, 7], [5, PAD, PAD]],
        "attention_mask": [[1, 1, 1], [1, 0, 0]],
        "token_type_ids": [[0, 1, 1], [1, 0, 0]],
        "labels": [2, 0],
    }
    assert all(values.dtype == torch.int64 for values in batch.values())


def test_padding_has_no_label():
    parts = [Row([5, 6], [0, 0], {"labels": [1, 2]}, 0), Row([5], [0], {"labels": [1]}, 1)]
    assert collate(parts, PAD)["labels"].tolist() == [[1, 2], [1, IGNORED]]


def test_places_of_answers_stay_places():
    parts = [Row([5, 6], [0, 0], {"start_positions": 0, "end_positions": 1}, 0)]
    batch = collate(parts, PAD)
    assert batch["start_positions"].tolist() == [0] and batch["end_positions"].tolist() == [1]
    assert "labels" not in batch
