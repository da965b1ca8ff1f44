"""Packed layers of a frozen model compute the same as plain ones."""

import pytest
import torch
from torch import nn

from pretrain.models.encoder import Encoder, Reads
from pretrain.models.packed_linear import PackedLinear, can_pack, pack_linears
from pretrain.models.teacher import Teacher
from tests.pretrain.tiny import batch, teacher_model

PACKED = [
    pytest.param(
        dtype,
        marks=pytest.mark.skipif(
            not can_pack(nn.Linear(2, 2, dtype=dtype)), reason=f"oneDNN has no kernels of {dtype}"
        ),
    )
    for dtype in (torch.float32, torch.bfloat16)
]
ROUNDING = {torch.float32: {"rtol": 1e-5, "atol": 1e-5}, torch.bfloat16: {"rtol": 0.02, "atol": 0.02}}


@pytest.mark.parametrize("dtype", PACKED)
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_a_packed_layer_gives_the_same_but_for_rounding(bias, dtype):
    linear = nn.Linear(48, 64, bias=bias, dtype=dtype)
    for shape in ((3, 5, 48), (7, 48), (1, 48)):
        inputs = torch.randn(shape, dtype=dtype)
        torch.testing.assert_close(PackedLinear(linear)(inputs), linear(inputs), **ROUNDING[dtype])


@pytest.mark.parametrize("dtype", PACKED)
def test_a_packed_teacher_returns_the_features_of_a_plain_one(dtype):
    reads = Reads(frozenset({0, 2, 4}), frozenset({2, 4}))
    teacher = Teacher(teacher_model(), [reads], str(dtype).removeprefix("torch."), "cpu")
    assert not any(isinstance(module, nn.Linear) for module in teacher.modules())
    with torch.no_grad():
        expected = Encoder(teacher_model().to(dtype), reads)(batch())
    found = teacher(batch())
    for name in ("hidden_states", "query", "key", "value"):
        for layer, tensor in getattr(expected, name).items():
            torch.testing.assert_close(getattr(found, name)[layer], tensor, **ROUNDING[dtype])


def test_layers_without_a_kernel_stay_unchanged():
    assert not can_pack(nn.Linear(2, 2, dtype=torch.float16)) and not can_pack(nn.Linear(2, 2, device="meta"))
    teacher = Teacher(teacher_model(), [Reads(projections=frozenset({4}))], "float16", "cpu")
    assert any(isinstance(module, nn.Linear) for module in teacher.modules())


@pytest.mark.parametrize("dtype", PACKED)
def test_hooks_go_over(dtype):
    model, seen = nn.Sequential(nn.Linear(4, 4, dtype=dtype)), []
    model[0].register_forward_hook(lambda *_: seen.append(1))
    pack_linears(model)
    model(torch.randn(2, 4, dtype=dtype))
    assert isinstance(model[0], PackedLinear) and seen == [1]


@pytest.mark.parametrize("dtype", PACKED)
@torch.no_grad()
def test_a_fused_activation_is_the_exact_gelu(dtype):
    linear, inputs = nn.Linear(48, 64, dtype=dtype), torch.randn(3, 5, 48, dtype=dtype)
    expected = nn.functional.gelu(nn.functional.linear(inputs.float(), linear.weight.float(), linear.bias.float()))
    torch.testing.assert_close(PackedLinear(linear, "gelu")(inputs).float(), expected, **ROUNDING[dtype])
