"""The schedule's shape and what is decayed."""

from itertools import pairwise

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from pretrain.optimizer import OptimizerConfig, ScheduleConfig, build_optimizer, build_schedule


def test_warm_up_then_linear_decay_to_zero():
    schedule = ScheduleConfig(warmup_ratio=0.2)
    factors = [schedule.factor(step, 10) for step in range(11)]
    assert factors[:3] == [0.5, 1.0, 1.0]
    assert factors[10] == 0
    falls = [a - b for a, b in pairwise(factors[2:])]
    assert max(falls) - min(falls) < 1e-12 and falls[0] > 0


@pytest.mark.parametrize("shape", ["linear", "cosine", "constant"])
def test_every_shape_starts_at_the_peak_and_ends_at_its_floor(shape):
    schedule = ScheduleConfig(type=shape, warmup_ratio=0.0, final_lr_ratio=0.0 if shape == "constant" else 0.1)
    assert schedule.factor(0, 100) == 1
    assert schedule.factor(100, 100) == pytest.approx(1.0 if shape == "constant" else 0.1)
    assert schedule.factor(500, 100) == schedule.factor(100, 100)


def test_warm_up_stable_decay():
    schedule = ScheduleConfig(type="wsd", warmup_ratio=0.1, decay_ratio=0.25, final_lr_ratio=0.2)
    factors = [schedule.factor(step, 20) for step in range(22)]
    assert factors[:2] == [0.5, 1.0] and factors[2:16] == [1.0] * 14
    assert factors[15:] == pytest.approx([1.0, 0.84, 0.68, 0.52, 0.36, 0.2, 0.2])
    with pytest.raises(ValidationError, match=r"warmup_ratio \(0\.5\) and decay_ratio \(0\.6\) are shares of the same"):
        ScheduleConfig(type="wsd", warmup_ratio=0.5, decay_ratio=0.6)
    for wrong in ({"type": "cosine", "decay_ratio": 0.2}, {"type": "wsd"}):
        message = f"decay_ratio is required with the schedule wsd and belongs to no other, got {wrong['type']}"
        with pytest.raises(ValidationError, match=message):
            ScheduleConfig(**wrong)


def test_a_floor_under_a_constant_schedule_is_refused():
    message = r"a constant schedule never decays, so final_lr_ratio \(0\.1\) would be ignored; leave it out, or use"
    with pytest.raises(ValidationError, match=message):
        ScheduleConfig(type="constant", final_lr_ratio=0.1)


def test_only_matrices_of_linear_layers_decay_and_frozen_parameters_are_left_out():
    module = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    module[3].requires_grad_(False)
    optimizer = build_optimizer(module, OptimizerConfig(lr=0.1, weight_decay=0.5))
    before = [parameter.detach().clone() for parameter in module.parameters()]
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    moved = [not torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True)]
    assert moved == [False, True, False, False, False, False, False]


def test_heads_and_pooler_have_their_own_learning_rate():
    module = nn.ModuleDict({"projection": nn.Linear(4, 6), "encoder": nn.ModuleDict({"query": nn.Linear(4, 4)})})
    module["encoder"]["pooler"] = nn.Linear(4, 4)
    config = OptimizerConfig(lr=0.25, weight_decay=0.5, head_lr_ratio=8)
    groups = build_optimizer(module, config, module["encoder"]).param_groups
    found = {(group["lr"], group["weight_decay"]): [one.shape for one in group["params"]] for group in groups}
    assert found == {
        (0.25, 0.5): [(4, 4)],
        (0.25, 0.0): [(4,)],
        (2.0, 0.5): [(6, 4), (4, 4)],
        (2.0, 0.0): [(6,), (4,)],
    }
    assert groups[0]["lr"] == 0.25, "the rate that is reported is the encoder's"
    alone = build_optimizer(module, config.model_copy(update={"head_lr_ratio": 1.0}), module["encoder"]).param_groups
    assert [len(group["params"]) for group in alone] == [3, 3]


def test_the_scheduler_sets_the_learning_rate():
    optimizer = build_optimizer(nn.Linear(2, 2), OptimizerConfig(lr=0.8))
    schedule = build_schedule(optimizer, ScheduleConfig(warmup_ratio=0.5), total_steps=4)
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.4, 0.8, 0.8, 0.4])
