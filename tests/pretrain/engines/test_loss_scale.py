"""The loss scale changes as torch's GradScaler's does, and resumes from a checkpoint."""

import random

import pytest
import torch

from pretrain.engines import loss_scale
from pretrain.engines.loss_scale import LossScale, LossScaleState

CPU = torch.device("cpu")


def test_it_moves_as_torchs_own_scaler(monkeypatch):
    monkeypatch.setattr(loss_scale, "_GROWTH_STEPS", 3)
    ours, draw = LossScale(CPU), random.Random(0)
    theirs, tracker = torch.full((1,), 2.0**16), torch.zeros(1, dtype=torch.int32)
    seen = set()
    for _ in range(200):
        bad = torch.tensor([float(draw.random() < 0.2)])
        ours.update(bad[0])
        torch._amp_update_scale_(theirs, tracker, bad, 2.0, 0.5, 3)
        assert ours.state == LossScaleState(scale=float(theirs), good_steps=int(tracker))
        seen.add(float(theirs))
    assert len(seen) > 5


def test_it_never_falls_below_one():
    scale = LossScale(CPU)
    for _ in range(40):
        scale.update(torch.ones(()))
    assert scale.state.scale == 1.0


def test_it_goes_on_where_it_was():
    before, after = LossScale(CPU), LossScale(CPU)
    for bad in (1.0, 0.0, 0.0):
        before.update(torch.tensor(bad))
    after.state = LossScaleState.model_validate_json(before.state.model_dump_json())
    assert after.state == before.state == LossScaleState(scale=2.0**15, good_steps=2)


@pytest.mark.parametrize("values", [{"scale": 0.0, "good_steps": 1}, {"scale": 2.0, "good_steps": -1}])
def test_a_state_that_cannot_be_is_refused(values):
    with pytest.raises(ValueError, match="greater than"):
        LossScaleState.model_validate(values)
