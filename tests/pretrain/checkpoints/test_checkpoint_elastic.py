"""A checkpoint does not depend on the number of ranks or the ZeRO stage: any engine resumes from any other's."""

import errno
import os
import re
import sys
from datetime import timedelta
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from pretrain.checkpoints import checkpoint, student_files
from pretrain.checkpoints.checkpoint import Checkpoints
from pretrain.training import metrics
from tests.pretrain.tiny import spawn, student_config, train

FASTER_HEAD = {"lr": 1e-3, "head_lr_ratio": 5}  # groups of parameters with two rates: projections have the second
STUDENTS = [
    student_config("one", optimizer=FASTER_HEAD),
    student_config("two", num_layers=4, objective=[{"type": "mlm"}]),
]


def run_rank(rank: int, folder: Path, steps: int, stage: int) -> None:
    """One of two ranks that train to `steps` steps in folder/run."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    torch.set_num_threads(1)
    sys.stderr = (folder / f"stderr_{rank}").open("w")
    store = f"file://{folder}/store_{steps}"
    dist.init_process_group("gloo", store, rank=rank, world_size=2, timeout=timedelta(minutes=2))
    train(folder / "run", steps, STUDENTS, micro_rows=4, zero_stage=stage, rank=rank, world_size=2)
    dist.destroy_process_group()


def tensors(run: Path, step: int, student: str) -> dict[str, torch.Tensor]:
    folder = run / f"checkpoints/step_{step}/{student}"
    return load_file(folder / "training.safetensors") | load_file(folder / "model/model.safetensors")


def run_failing_rank(rank: int, folder: Path, fault: str) -> None:
    """One of two ranks, where rank 0's disk is full, at the save or at the start, or rank 1 does not see the folder."""
    with pytest.MonkeyPatch.context() as patch:
        if fault == "full disk" and rank == 0:
            patch.setattr(student_files, "save_file", Mock(side_effect=OSError(errno.ENOSPC, "No space left")))
        if fault == "no metrics" and rank == 0:
            patch.setattr(metrics, "SummaryWriter", Mock(side_effect=OSError(errno.ENOSPC, "No space left")))
        if fault == "no view" and rank == 1:
            patch.setattr(checkpoint, "damage", lambda folder: f"{folder}/files.json: cannot be read: not there")
        with pytest.raises(ValueError) as told:
            run_rank(rank, folder, 4, 1)
    (folder / f"told_{rank}").write_text(str(told.value))
    dist.destroy_process_group()


@pytest.mark.job
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            "full disk",
            r"outputs.safetensors: cannot be written: No space left; step 4 was not saved, .* step_2 is kept",
        ),
        ("no metrics", "No space left"),
        ("no view", r"rank 1: \S*step_2/files\.json: cannot be read: not there"),
    ],
)
def test_an_error_on_one_rank_is_raised_on_all(tmp_path, fault, message):
    train(tmp_path / "run", 2, STUDENTS, save_every_steps=2, zero_stage=1)
    spawn(run_failing_rank, (tmp_path, fault))
    told = [(tmp_path / f"told_{rank}").read_text() for rank in range(2)]
    assert told[0] == told[1] and re.search(message, told[0])
    assert {path.name for path in (tmp_path / "run/checkpoints").iterdir()} == {"latest", "step_2"}


@pytest.mark.job
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_one_rank_then_two_then_one_is_the_uninterrupted_run_but_for_rounding(tmp_path, stage):
    train(tmp_path / "run", 2, STUDENTS, micro_rows=4, zero_stage=stage, save_every_steps=2)
    spawn(run_rank, (tmp_path, 4, stage))
    train(tmp_path / "run", 6, STUDENTS, micro_rows=4, zero_stage=stage)
    train(tmp_path / "whole", 6, STUDENTS, micro_rows=4, zero_stage=stage)
    for student in ("one", "two"):
        ours, theirs = tensors(tmp_path / "run", 6, student), tensors(tmp_path / "whole", 6, student)
        assert torch.equal(ours["num_updates"], torch.full_like(ours["num_updates"], 6.0))
        # Stage 1 is trained in bfloat16 here, where another split of the batch rounds otherwise.
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-3 if stage == 1 else 5e-5)


@pytest.mark.job
def test_two_ranks_that_stop_go_on_bit_for_bit(tmp_path):
    """ZeRO's partitions are put together and taken apart again; padding between them is lost on nobody."""
    for folder, steps in (("parts", (2, 4)), ("whole", (4,))):
        (tmp_path / folder).mkdir()
        for end in steps:
            spawn(run_rank, (tmp_path / folder, end, 2))
    for student in ("one", "two"):
        ours = tensors(tmp_path / "parts/run", 4, student)
        theirs = tensors(tmp_path / "whole/run", 4, student)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_another_zero_stage_goes_on_from_the_same_bits(tmp_path, monkeypatch):
    """What is loaded at one stage and saved at the next is the same file, counters included."""
    seen = []
    train(tmp_path, 3, STUDENTS[:1], save_every_steps=3)
    original = Checkpoints.load

    def load_and_look(checkpoints, engines):
        state = original(checkpoints, engines)
        seen.append(({name: t.clone() for name, t in engines[0].gather_tensors().items()}, engines[0]))
        return state

    monkeypatch.setattr(checkpoint.Checkpoints, "load", load_and_look)
    for stage in (0, 1, 2):
        train(tmp_path, 3, STUDENTS[:1], zero_stage=stage, micro_rows=4)
    first = seen[0][0]
    for gathered, engine in seen:
        assert gathered.keys() == first.keys()
        assert all(torch.equal(gathered[name], first[name]) for name in first)
        deepspeed = engine.engine
        assert (deepspeed.global_steps, deepspeed.global_samples, deepspeed.micro_steps) == (3, 24, 6)
        rates = {group["lr"] for group in deepspeed.optimizer.param_groups}
        assert rates == {rate * STUDENTS[0].schedule.factor(3, 8) for rate in (1e-3, 5e-3)}


def test_a_step_that_zero_skipped_is_not_counted_by_the_schedule(tmp_path):
    """DeepSpeed leaves its schedule where it is then; a resume must not move it."""
    engines = []
    original = Checkpoints.save

    def skipped(checkpoints, of, state):
        of[0].engine.skipped_steps, of[0].schedule.last_epoch = 1, 2
        original(checkpoints, of, state)

    def kept(checkpoints, of):
        state = Checkpoints_load(checkpoints, of)
        engines.extend(of)
        return state

    Checkpoints_load = Checkpoints.load
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", skipped)
        train(tmp_path, 3, zero_stage=1)
        patch.setattr(Checkpoints, "load", kept)
        train(tmp_path, 3, zero_stage=1)
    assert (engines[0].engine.skipped_steps, engines[0].schedule.last_epoch) == (1, 2)
    assert engines[0].engine.optimizer.param_groups[0]["lr"] == 1e-3 * student_config().schedule.factor(2, 8)
