"""Our attention is transformers' eager one, masks and dropout included."""

import pytest
import torch

from pretrain.attention import plain_attention
from tests.pretrain.tiny import batch, teacher_model


@pytest.mark.parametrize("padding", [True, False])
@torch.no_grad()
def test_a_model_answers_as_with_eager_attention(padding):
    model, inputs = teacher_model(), batch(padding=padding)
    expected = model(**inputs).last_hidden_state
    model.set_attn_implementation("plain")
    torch.testing.assert_close(model(**inputs).last_hidden_state, expected, rtol=1e-5, atol=1e-6)


def test_dropout_is_for_training():
    query, key, value = torch.randn(3, 2, 4, 9, 6).unbind()
    module = torch.nn.Identity()
    dropped = plain_attention(module, query, key, value, None, dropout=0.5)[1]
    kept = plain_attention(module.eval(), query, key, value, None, dropout=0.5)[1]
    assert (dropped == 0).any() and not (kept == 0).any()
    torch.testing.assert_close(kept.sum(-1), torch.ones(2, 4, 9))
