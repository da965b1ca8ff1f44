"""The teacher's answers, made once, are those of the rows of each batch."""

import numpy as np

from bench.bilstm.trial import chosen
from tasks.batches import TaskBatches
from tasks.rows import Row


def test_answers_are_those_of_the_batchs_rows():
    rows = [Row([index] * (1 + index % 5), [0] * (1 + index % 5), {"labels": index}, index) for index in range(70)]
    batches = TaskBatches(rows, 0, 32, seed=3)
    for batch, places in zip(batches.batches(0, 32), chosen(batches, 7), strict=False):
        assert np.array_equal(batch["labels"], places)
