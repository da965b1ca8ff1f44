"""Replaced tokens and sentence order in real engines: resumed == uninterrupted, 2 ranks == 1, parts == whole."""

import os
import sys
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from pretrain.training.metrics import read_metrics
from tests.pretrain.tiny import spawn, student_config, train

BOTH = [{"type": "replaced_tokens"}, {"type": "sentence_order"}]
STUDENT = student_config("both", objective=BOTH)
NOISY = student_config("both", objective=BOTH, dropout_prob=0.2)


@pytest.mark.parametrize("zero_stage", [0, 1])
def test_a_resumed_run_samples_the_same_and_ends_with_the_same_bits(tmp_path, zero_stage):
    settings = {"micro_rows": 4, "zero_stage": zero_stage}
    whole = train(tmp_path / "whole", 8, [NOISY], **settings)["both"]
    train(tmp_path / "parts", 4, [NOISY], **settings)
    parts = train(tmp_path / "parts", 8, [NOISY], **settings)["both"]
    assert whole.keys() == parts.keys() and all(torch.equal(whole[name], parts[name]) for name in whole)
    names = [name for name in read_metrics(tmp_path / "whole")[0] if "second" not in name]
    logged = [[line[name] for line in read_metrics(tmp_path / run) for name in names] for run in ("whole", "parts")]
    assert logged[0] == logged[1]
    terms = {"generator", "discriminator", "replaced", "found"}
    assert {f"both/replaced_tokens/{term}" for term in terms} | {"both/sentence_order/right"} <= set(names)
    saved = tmp_path / "parts/checkpoints/step_8/both/model"
    assert "generator" not in (saved / "config.json").read_text() and any("generator" in name for name in whole)


def test_another_student_in_the_run_changes_no_bit(tmp_path):
    alone = train(tmp_path / "alone", 3, [NOISY])["both"]
    beside = train(tmp_path / "beside", 3, [student_config("first"), NOISY])["both"]
    assert all(torch.equal(alone[name], beside[name]) for name in alone)


def assert_close(first, second):
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-3, atol=5e-5)


def test_accumulated_steps_are_those_of_whole_batches(tmp_path):
    at_once = train(tmp_path / "once", 4, [STUDENT], micro_rows=8)["both"]
    assert_close(at_once, train(tmp_path / "parts", 4, [STUDENT], micro_rows=2)["both"])


def train_on_rank(rank, folder, world_size):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
    torch.set_num_threads(1)
    sys.stderr = (folder / f"stderr_{rank}").open("w")
    where = f"file://{folder}/store"
    dist.init_process_group("gloo", where, rank=rank, world_size=world_size, timeout=timedelta(minutes=2))
    weights = train(folder / "two", 4, [STUDENT], micro_rows=4, rank=rank, world_size=world_size)["both"]
    torch.save(weights, folder / f"weights_{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.job
def test_two_ranks_of_four_rows_equal_one_of_eight(tmp_path):
    spawn(train_on_rank, (tmp_path, 2))
    first, second = (torch.load(tmp_path / f"weights_{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert_close(train(tmp_path / "one", 4, [STUDENT], micro_rows=8)["both"], first)
