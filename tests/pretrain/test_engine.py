"""The DeepSpeed block: strict, and its batch arithmetic."""

import pytest
from pydantic import ValidationError

from pretrain.engine import DeepSpeedConfig

BATCH = {"train_batch_size": 48, "train_micro_batch_size_per_gpu": 4}


def test_accumulation_keeps_the_global_batch():
    config = DeepSpeedConfig.model_validate(BATCH)
    assert [config.accumulation_steps(ranks) for ranks in (1, 2, 3, 4, 12)] == [12, 6, 4, 3, 1]


def test_a_batch_that_cannot_be_cut_is_refused():
    message = r"train_batch_size: must be a multiple of train_micro_batch_size_per_gpu \(4\) x 5 ranks, got 48"
    with pytest.raises(ValueError, match=message):
        DeepSpeedConfig.model_validate(BATCH).accumulation_steps(5)


@pytest.mark.parametrize(
    "more",
    [{"elasticity": {}}, {"zero_optimization": {"stage": 3}}, {"torch_autocast": {"enabled": True, "dtype": "int8"}}],
)
def test_what_deepspeed_would_silently_accept_or_cannot_do_is_refused(more):
    with pytest.raises(ValidationError, match=next(iter(more))):
        DeepSpeedConfig.model_validate(BATCH | more)
