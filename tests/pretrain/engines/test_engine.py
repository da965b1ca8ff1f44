"""The DeepSpeed section is strict and its batch sizes are right; a step is AdamW's with torch's clipping."""

import os
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from pydantic import ValidationError

from pretrain.engines.deepspeed_config import DeepSpeedConfig
from pretrain.engines.engine import StudentEngine
from pretrain.models.teacher import Teacher
from pretrain.optimizer import build_optimizer
from pretrain.ranks.process_group import start_distributed
from pretrain.students.student import build_student
from tests.pretrain.tiny import batch, spawn, student_config, teacher_model

BATCH = {"train_batch_size": 48, "train_micro_batch_size_per_gpu": 4}


def test_accumulation_keeps_the_global_batch():
    config = DeepSpeedConfig.model_validate(BATCH)
    assert [config.accumulation_steps(ranks) for ranks in (1, 2, 3, 4, 12)] == [12, 6, 4, 3, 1]
    assert [config.micro_rows(ranks) for ranks in (8, 16, 24, 48)] == [3, 3, 2, 1], "a rank's share is cut evenly"
    assert [config.accumulation_steps(ranks) for ranks in (8, 16, 24, 48)] == [2, 1, 1, 1]


def test_smaller_micro_batches_than_configured_cause_a_warning(recwarn):
    config = DeepSpeedConfig.model_validate(BATCH)
    config.warn(12)
    assert not recwarn
    with pytest.warns(UserWarning, match=r"3 rows at once instead of 4 .* 16 ranks has 3 of the 48 rows of a step"):
        config.warn(16)


def test_a_batch_that_cannot_be_cut_is_refused():
    message = r"train_batch_size: must be a multiple of 5 ranks, got 48"
    with pytest.raises(ValueError, match=message):
        DeepSpeedConfig.model_validate(BATCH).accumulation_steps(5)


@pytest.mark.parametrize(
    "more",
    [{"elasticity": {}}, {"zero_optimization": {"stage": 3}}, {"torch_autocast": {"enabled": True, "dtype": "int8"}}],
)
def test_keys_that_deepspeed_ignores_or_cannot_do_are_errors(more):
    with pytest.raises(ValidationError, match=next(iter(more))):
        DeepSpeedConfig.model_validate(BATCH | more)


@pytest.mark.parametrize("zero_stage", [0, 1, 2])
def test_autocast_computes_in_bfloat16_and_zero_adds_gradients_up_in_float32(zero_stage):
    start_distributed()
    model, config = teacher_model(), student_config()
    student = build_student(config, model, seed=1)
    teacher = Teacher(model, [student.teacher_reads], "float32", "cpu")
    student.freeze_unreached(teacher)
    student.register_parameter("one_more", torch.nn.Parameter(torch.zeros(1), requires_grad=False))
    num_parameters = sum(one.numel() for one in student.parameters())
    assert num_parameters % 2, "DeepSpeed refuses such buckets"
    settings = {"train_batch_size": 3, "train_micro_batch_size_per_gpu": 3, "zero_optimization": {"stage": zero_stage}}
    settings |= {"torch_autocast": {"enabled": True, "dtype": "bfloat16"}}
    engine = StudentEngine(student, config, DeepSpeedConfig.model_validate(settings), total_steps=9, world_size=1)
    computed = []
    query = student.encoder.model.encoder.layer[0].attention.self.query
    query.register_forward_hook(lambda module, given, made: computed.append(made.dtype))
    engine.train_micro_batch(batch(), teacher(batch()), seed=0)
    assert not engine.engine.tput_timer.config.enabled  # it would wait for the device, twice a micro-batch
    assert computed == [torch.bfloat16]
    if zero_stage:
        assert engine.engine.optimizer.reduce_bucket_size == num_parameters + 1
        assert set(engine.engine.optimizer.ipg_buckets) == {torch.float32}  # DeepSpeed sums each type in its own bucket


@pytest.mark.parametrize("zero_stage", [1, 2])
def test_zero_adds_gradients_up_in_the_type_that_is_asked_for(zero_stage):
    start_distributed()
    model, config = teacher_model(), student_config()
    student = build_student(config, model, seed=1)
    settings = {"train_batch_size": 3, "train_micro_batch_size_per_gpu": 3, "communication_data_type": "bf16"}
    settings |= {"torch_autocast": {"enabled": True, "dtype": "bfloat16"}, "zero_optimization": {"stage": zero_stage}}
    engine = StudentEngine(student, config, DeepSpeedConfig.model_validate(settings), total_steps=9, world_size=1)
    assert set(engine.engine.optimizer.ipg_buckets) == {torch.bfloat16}


@pytest.mark.parametrize("zero_stage", [0, 1, 2])
@pytest.mark.parametrize("max_norm", [0.0, 1e-3, 1e3])
def test_a_step_clips_as_torch_does(max_norm, zero_stage):
    """The optimizer divides by what the clipping would have multiplied by; the weights are those of the plain way."""
    start_distributed()
    model, config = teacher_model(), student_config(optimizer={"lr": 1e-2, "eps": 1e-4}, schedule={"warmup_ratio": 0.0})
    ours, plain = (build_student(config, model, seed=1) for _ in range(2))
    teacher = Teacher(model, [ours.teacher_reads], "float32", "cpu")
    for student in (ours, plain):
        student.freeze_unreached(teacher)
    settings = {"train_batch_size": 3, "train_micro_batch_size_per_gpu": 3, "gradient_clipping": max_norm}
    settings |= {"torch_autocast": {"enabled": False}, "zero_optimization": {"stage": zero_stage}}
    engine = StudentEngine(ours, config, DeepSpeedConfig.model_validate(settings), total_steps=10**6, world_size=1)
    optimizer = build_optimizer(plain, config.optimizer)
    features = teacher(batch())
    for _ in range(2):
        engine.train_micro_batch(batch(), features, seed=0)
        plain(batch(), features)[0].backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), max_norm or float("inf"))
        optimizer.step()
        optimizer.zero_grad()
    for (name, one), two in zip(ours.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def step_in_a_group_of_its_own(rank: int, folder: Path) -> None:
    """As in a notebook: torch's own process group, and no start_distributed."""
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", TORCH_EXTENSIONS_DIR=str(folder / "extensions"))
    dist.init_process_group("gloo", f"file://{folder}/store", rank=0, world_size=1)
    model, config = teacher_model(), student_config()
    student = build_student(config, model, seed=1)
    teacher = Teacher(model, [student.teacher_reads], "float32", "cpu")
    student.freeze_unreached(teacher)
    settings = {"train_batch_size": 3, "train_micro_batch_size_per_gpu": 3, "torch_autocast": {"enabled": False}}
    engine = StudentEngine(student, config, DeepSpeedConfig.model_validate(settings), total_steps=1, world_size=1)
    engine.train_micro_batch(batch(), teacher(batch()), seed=0)
    (folder / "steps").write_text(str(engine.steps))


@pytest.mark.job
def test_deepspeed_compiles_nothing_whoever_starts_the_process_group(tmp_path):
    spawn(step_in_a_group_of_its_own, (tmp_path,), num_ranks=1)
    assert (tmp_path / "steps").read_text() == "1"
    assert not (tmp_path / "extensions").exists()


def step_on_rank(rank: int, folder: Path) -> None:
    """Writes whether a step moved this rank's weights where the loss is infinite, gradients finite, on rank 1 alone."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2, timeout=timedelta(minutes=2))
    model, config = teacher_model(), student_config()
    student = build_student(config, model, seed=1)
    teacher = Teacher(model, [student.teacher_reads], "float32", "cpu")
    student.freeze_unreached(teacher)
    settings = {"train_batch_size": 6, "train_micro_batch_size_per_gpu": 3, "torch_autocast": {"enabled": False}}
    engine = StudentEngine(student, config, DeepSpeedConfig.model_validate(settings), total_steps=9, world_size=2)
    before = [one.detach().clone() for one in student.parameters()]
    if rank:
        total = student.objectives[0].total
        student.objectives[0].total = lambda *given: total(*given) + float("inf")
    engine.train_micro_batch(batch(), teacher(batch()), seed=0)
    moved = not all(map(torch.equal, before, student.parameters()))
    (folder / f"seen_{rank}").write_text(f"moved {moved}, bad {engine.is_bad}")
    dist.destroy_process_group()


@pytest.mark.job
def test_a_loss_that_is_infinite_on_one_rank_moves_no_rank(tmp_path):
    spawn(step_on_rank, (tmp_path,))
    assert [(tmp_path / f"seen_{rank}").read_text() for rank in range(2)] == ["moved False, bad True"] * 2
