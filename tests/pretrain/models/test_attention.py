"""Our attention is transformers' eager one, masks and dropout included."""

import pytest
import torch

from pretrain.models.attention import fused_attention, plain_attention
from tests.pretrain.tiny import batch, teacher_model


@pytest.mark.parametrize("padding", [True, False])
@pytest.mark.parametrize("attention", ["plain", "fused"])
@torch.no_grad()
def test_a_model_answers_as_with_eager_attention(attention, padding):
    model, inputs = teacher_model(), batch(padding=padding)
    expected = model(**inputs).last_hidden_state
    model.set_attn_implementation(attention)
    torch.testing.assert_close(model(**inputs).last_hidden_state, expected, rtol=1e-5, atol=1e-6)


def test_dropout_is_for_training():
    query, key, value = torch.randn(3, 2, 4, 9, 6).unbind()
    module = torch.nn.Identity()
    dropped = plain_attention(module, query, key, value, None, dropout=0.5)[1]
    kept = plain_attention(module.eval(), query, key, value, None, dropout=0.5)[1]
    assert (dropped == 0).any() and not (kept == 0).any()
    torch.testing.assert_close(kept.sum(-1), torch.ones(2, 4, 9))


@pytest.mark.parametrize("width", [16, 26])
def test_masked_heads_are_as_wide_as_fused_kernels_want_them(monkeypatch, width):
    query, key, value = torch.randn(3, 2, 4, 9, width, requires_grad=True).unbind()
    mask = torch.ones(2, 1, 1, 9, dtype=torch.bool)
    mask[1, ..., 5:] = False
    kernel, widths = torch.nn.functional.scaled_dot_product_attention, []

    def record(*tensors, **options):
        widths.extend(one.shape[-1] for one in tensors[:3])
        return kernel(*tensors, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", record)
    module = torch.nn.Identity()
    fused = fused_attention(module, query, key, value, mask)[0]
    plain = plain_attention(module, query, key, value, torch.where(mask, 0.0, -1e9))[0]
    torch.testing.assert_close(fused, plain)
    gradients = [torch.autograd.grad(one.square().sum(), [query, key, value]) for one in (fused, plain)]
    torch.testing.assert_close(*gradients)
    fused_attention(module, query, key, value, None)
    assert widths == [-(-width // 8) * 8] * 3 + [width] * 3
