"""Students in float16: a scaled loss, overflows that change nothing, a resume with the scale; at every ZeRO stage."""

import json
from pathlib import Path

import pytest
import torch

from pretrain.engines import loss_scale
from pretrain.engines.deepspeed_config import DeepSpeedConfig
from pretrain.engines.engine import StudentEngine
from pretrain.models.teacher import Teacher
from pretrain.ranks.process_group import start_distributed
from pretrain.students.student import build_student
from pretrain.training.metrics import read_metrics
from tests.pretrain.tiny import batch, student_config, teacher_model, train

STAGES = [0, 1, 2]
RELATIONS_AND_STATES = [{"type": "minilm_v2", "num_relation_heads": 4}, {"type": "hidden_states"}]


def build_engine(zero_stage: int, dtype: str, max_norm: float = 1.0):
    start_distributed()
    config = student_config(optimizer={"lr": 1e-2, "eps": 1e-4}, schedule={"warmup_ratio": 0.0})
    model = teacher_model()
    student = build_student(config, model, seed=1)
    teacher = Teacher(model, [student.teacher_reads], "float32", "cpu")
    student.freeze_unreached(teacher)
    values = {"train_batch_size": 3, "train_micro_batch_size_per_gpu": 3, "gradient_clipping": max_norm}
    values |= {"zero_optimization": {"stage": zero_stage}}
    values |= {"torch_autocast": {"enabled": dtype != "float32"} | ({"dtype": dtype} if dtype != "float32" else {})}
    engine = StudentEngine(student, config, DeepSpeedConfig.model_validate(values), total_steps=10**6, world_size=1)
    return engine, teacher(batch())


def weights(engine: StudentEngine) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in engine.student.named_parameters()}


@pytest.mark.parametrize("zero_stage", STAGES)
@pytest.mark.parametrize("max_norm", [0.0, 1e-2])
def test_a_step_is_float32s_but_for_rounding_whatever_the_scale(zero_stage, max_norm):
    """The scale is divided out before gradients are clipped, and before their norm is told."""
    moves, norms = [], []
    for dtype in ("float32", "float16"):
        engine, features = build_engine(zero_stage, dtype, max_norm)
        computed = []
        query = engine.student.encoder.model.encoder.layer[0].attention.self.query
        query.register_forward_hook(lambda module, given, made, seen=computed: seen.append(made.dtype))
        before = weights(engine)
        for _ in range(3):
            engine.train_micro_batch(batch(), features, seed=0)
        assert set(computed) == {getattr(torch, dtype)}
        metrics = engine.take_metrics()
        assert metrics["skipped_steps"] == 0
        moves.append(torch.cat([(tensor - before[name]).flatten() for name, tensor in weights(engine).items()]))
        norms.append(metrics["grad_norm"])
    assert norms[1] == pytest.approx(norms[0], rel=2e-2)
    assert (moves[1] - moves[0]).norm() < 0.1 * moves[0].norm()


@pytest.mark.parametrize("zero_stage", STAGES)
def test_an_overflow_changes_nothing_is_counted_and_halves_the_scale(zero_stage, monkeypatch):
    monkeypatch.setattr(loss_scale, "_FIRST_SCALE", 2.0**40)
    engine, features = build_engine(zero_stage, "float16")
    before = weights(engine)
    engine.train_micro_batch(batch(), features, seed=0)
    assert engine.counters.bad_in_a_row == 1 and engine.counters.loss_scale.scale == 2.0**39
    assert not engine.is_bad, "a scale that is too large is no reason to save nothing"
    assert all(torch.equal(weights(engine)[name], tensor) for name, tensor in before.items())
    steps = 1
    while engine.counters.bad_in_a_row:
        engine.train_micro_batch(batch(), features, seed=0)
        steps += 1
    metrics = engine.take_metrics()
    assert engine.steps == engine.counters.schedule_steps == steps, "skipped steps count as the others do"
    assert metrics["skipped_steps"] == metrics["skipped_in_a_row"] == steps - 1 > 5
    assert engine.counters.loss_scale.scale == 2.0 ** (40 - (steps - 1))
    assert not all(torch.equal(weights(engine)[name], tensor) for name, tensor in before.items())


def test_a_loss_that_is_never_finite_is_bad_once_the_scale_is_at_its_least(monkeypatch):
    monkeypatch.setattr(loss_scale, "_FIRST_SCALE", 2.0)
    engine, features = build_engine(0, "float16")
    for objective in engine.student.objectives:
        objective.total = lambda *given: next(iter(given[0].values())) * float("nan")
    engine.train_micro_batch(batch(), features, seed=0)
    assert engine.is_bad and engine.counters.loss_scale.scale == 1.0


def test_gradients_too_small_for_float16_arrive():
    """Without a scale they would all be rounded to 0."""
    engine, features = build_engine(0, "float16", max_norm=0.0)
    total = engine.student.objectives[0].total
    for objective in engine.student.objectives:
        objective.total = lambda *given, total=total: total(*given) * 1e-7
    before = weights(engine)
    engine.train_micro_batch(batch(), features, seed=0)
    moved = [name for name, tensor in weights(engine).items() if not torch.equal(before[name], tensor)]
    assert "encoder.model.encoder.layer.1.attention.self.key.weight" in moved


@pytest.mark.parametrize("zero_stage", STAGES)
def test_a_resumed_run_ends_with_the_same_bits_and_the_same_scale(zero_stage, tmp_path, monkeypatch):
    monkeypatch.setattr(loss_scale, "_FIRST_SCALE", 2.0**24)  # some steps overflow, before the stop and after it
    monkeypatch.setattr(loss_scale, "_GROWTH_STEPS", 2)
    options = {"zero_stage": zero_stage, "dtype": "float16", "save_every_steps": 2, "max_skipped_in_a_row": 30}
    whole = train(tmp_path / "whole", 8, **options)
    train(tmp_path / "parts", 4, **options)
    parts = train(tmp_path / "parts", 8, **options)
    assert all(torch.equal(parts["small"][name], tensor) for name, tensor in whole["small"].items())
    ends = [read_scale(tmp_path / name, 8) for name in ("whole", "parts")]
    assert ends[0] == ends[1] and read_scale(tmp_path / "parts", 4) != ends[1]
    assert sum(line["small/skipped_steps"] for line in read_metrics(tmp_path / "whole")) > 0


def test_a_checkpoint_in_float16_goes_on_at_another_stage_and_in_float32(tmp_path):
    train(tmp_path, 4, zero_stage=0, dtype="float16")
    scale = read_scale(tmp_path, 4)
    train(tmp_path, 8, zero_stage=2, dtype="float16")
    assert read_scale(tmp_path, 8)["good_steps"] == scale["good_steps"] + 4
    train(tmp_path, 10, zero_stage=1, dtype="float32", save_every_steps=2)
    assert read_scale(tmp_path, 10) is None


def read_scale(run: Path, step: int) -> dict | None:
    return json.loads((run / f"checkpoints/step_{step}/small/training.json").read_text())["loss_scale"]
