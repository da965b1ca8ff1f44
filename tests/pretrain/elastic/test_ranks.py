"""An elastic run on two ranks: both draw the same sizes, and end where one rank does."""

import os
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from pretrain.training.metrics import read_metrics
from tests.pretrain.tiny import spawn, student_config, train

STUDENTS = [student_config(elastic={"depths": [1], "feed_forward": [4, 8, 12], "sample": "sandwich"})]


def train_on_rank(rank: int, folder: Path, stage: int) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", store, rank=rank, world_size=2, timeout=timedelta(minutes=2))
    options = {"micro_rows": 4, "zero_stage": stage, "dtype": "float32"}
    weights = train(folder / "two", 4, STUDENTS, rank=rank, world_size=2, **options)
    torch.save(weights["small"], folder / f"weights_{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.job
@pytest.mark.parametrize("stage", [0, 1])
def test_an_elastic_run_on_two_ranks_equals_one_on_one(tmp_path, stage):
    spawn(train_on_rank, (tmp_path, stage))
    first, second = (torch.load(tmp_path / f"weights_{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    alone = train(tmp_path / "one", 4, STUDENTS, micro_rows=8)["small"]
    torch.testing.assert_close(first, alone, rtol=1e-3, atol=2e-5)
    ours, theirs = read_metrics(tmp_path / "one")[-1], read_metrics(tmp_path / "two")[-1]
    losses = [name for name in ours if name.startswith("small/loss")]
    assert losses == [name for name in theirs if name.startswith("small/loss")] and len(losses) > 3
    for name in losses:
        assert ours[name] == pytest.approx(theirs[name], rel=1e-4)
