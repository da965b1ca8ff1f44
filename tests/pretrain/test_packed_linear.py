"""A frozen model's packed layers give the same bits."""

import pytest
import torch
from torch import nn

from pretrain.encoder import Encoder, Reads
from pretrain.packed_linear import PackedLinear, can_pack, pack_linears
from pretrain.teacher import Teacher
from tests.pretrain.tiny import batch, teacher_model

needs_bfloat16 = pytest.mark.skipif(
    not can_pack(nn.Linear(2, 2, dtype=torch.bfloat16)), reason="no bfloat16 kernels of oneDNN on this machine"
)


@needs_bfloat16
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_a_packed_layer_gives_the_same_bits(bias):
    linear = nn.Linear(48, 64, bias=bias, dtype=torch.bfloat16)
    for shape in ((3, 5, 48), (7, 48), (1, 48)):
        inputs = torch.randn(shape, dtype=torch.bfloat16)
        assert torch.equal(PackedLinear(linear)(inputs), linear(inputs))


@needs_bfloat16
def test_a_packed_teacher_reads_what_a_plain_one_does():
    reads = Reads(frozenset({0, 2, 4}), frozenset({2, 4}))
    teacher = Teacher(teacher_model(), [reads], "bfloat16", "cpu")
    assert not any(isinstance(module, nn.Linear) for module in teacher.modules())
    with torch.no_grad():
        expected = Encoder(teacher_model().to(torch.bfloat16), reads)(batch())
    found = teacher(batch())
    for name in ("hidden_states", "query", "key", "value"):
        for layer, tensor in getattr(expected, name).items():
            torch.testing.assert_close(getattr(found, name)[layer], tensor, rtol=0.02, atol=0.02)


def test_a_float32_teacher_stays_as_it_is():
    teacher = Teacher(teacher_model(), [Reads(projections=frozenset({4}))], "float32", "cpu")
    assert any(isinstance(module, nn.Linear) for module in teacher.modules())


@needs_bfloat16
def test_hooks_go_over():
    model, seen = nn.Sequential(nn.Linear(4, 4, dtype=torch.bfloat16)), []
    model[0].register_forward_hook(lambda *_: seen.append(1))
    pack_linears(model)
    model(torch.randn(2, 4, dtype=torch.bfloat16))
    assert isinstance(model[0], PackedLinear) and seen == [1]


@needs_bfloat16
@torch.no_grad()
def test_a_fused_activation_is_the_exact_gelu():
    linear, inputs = nn.Linear(48, 64, dtype=torch.bfloat16), torch.randn(3, 5, 48, dtype=torch.bfloat16)
    expected = nn.functional.gelu(nn.functional.linear(inputs.float(), linear.weight.float(), linear.bias.float()))
    torch.testing.assert_close(PackedLinear(linear, "gelu")(inputs).float(), expected, rtol=0.01, atol=0.01)
