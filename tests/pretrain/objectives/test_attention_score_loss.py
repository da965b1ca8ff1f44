"""The squared error of attention scores by Gram matrices is that of the scores themselves."""

import pytest
import torch

from pretrain.objectives.attention_score_loss import attention_score_loss


def draw(width, seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(3, 9, width, generator=generator).to(dtype) for _ in range(2))


def mask():
    real = torch.ones(3, 9, dtype=torch.bool)
    real[1, 4:] = False
    return real


def reference(teacher, student, real, num_heads, reduction="rows"):
    """TinyBERT equation 7, one row and one head at a time, real tokens only, float64."""
    rows = []
    for row in range(len(real)):
        heads = []
        for head in range(num_heads):
            scores = []
            for query, key in (teacher, student):
                width = query.shape[-1] // num_heads
                part = slice(head * width, (head + 1) * width)
                q, k = (tensor[row, real[row], part].double() for tensor in (query, key))
                scores.append(q @ k.T / width**0.5)
            heads.append((scores[0] - scores[1]).square())
        rows.append(torch.stack(heads).mean(0).flatten())
    return torch.cat(rows).mean() if reduction == "tokens" else torch.stack([row.mean() for row in rows]).mean()


@pytest.mark.parametrize("num_heads", [1, 4])
def test_value_and_gradient_equal_the_reference(num_heads):
    teacher, student = draw(24, 0), tuple(tensor.requires_grad_() for tensor in draw(12, 1))
    fast = attention_score_loss(teacher, student, [mask()], num_heads)
    slow = reference(teacher, student, mask(), num_heads)
    torch.testing.assert_close(fast.double(), slow, rtol=1e-5, atol=1e-6)
    for a, b in zip(torch.autograd.grad(fast, student), torch.autograd.grad(slow, student), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
        assert (a[~mask()] == 0).all()


def test_models_that_agree_have_no_loss_and_padding_does_not_count():
    teacher, other = draw(12, 0), draw(12, 1)
    assert attention_score_loss(teacher, teacher, [mask()], 4).abs() < 1e-6
    wider = [torch.cat([tensor, torch.randn(3, 5, 12)], 1) for tensor in (*teacher, *other)]
    longer = torch.cat([mask(), torch.zeros(3, 5, dtype=torch.bool)], 1)
    expected = attention_score_loss(teacher, other, [mask()], 4)
    torch.testing.assert_close(attention_score_loss(tuple(wider[:2]), tuple(wider[2:]), [longer], 4), expected)


def test_no_gradient_reaches_the_teacher():
    teacher = tuple(tensor.requires_grad_() for tensor in draw(12, 0))
    student = tuple(tensor.requires_grad_() for tensor in draw(12, 1))
    attention_score_loss(teacher, student, [mask()], 4).backward()
    assert all(tensor.grad is None for tensor in teacher) and all(tensor.grad is not None for tensor in student)


def test_bfloat16_inputs_give_a_float32_loss():
    teacher, student = draw(24, 0), draw(12, 1)
    rounded = [tuple(tensor.bfloat16() for tensor in pair) for pair in (teacher, student)]
    loss = attention_score_loss(*rounded, [mask()], 4)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, attention_score_loss(teacher, student, [mask()], 4), rtol=2e-2, atol=0)


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="5 heads do not divide the teacher's width 24"):
        attention_score_loss(draw(24, 0), draw(20, 1), [mask()], 5)
    with pytest.raises(ValueError, match="8 heads do not divide the student's width 12"):
        attention_score_loss(draw(24, 0), draw(12, 1), [mask()], 8)


@pytest.mark.parametrize("reduction", ["rows", "tokens"])
def test_scores_within_documents_equal_those_of_the_documents_alone(reduction):
    """A document is a row of its own, of which no other token is real; all pairs of a row have the same weight."""
    teacher, student = draw(24, 0), draw(12, 1)
    parts = [mask() & (torch.arange(9) < 3), mask() & (torch.arange(9) >= 3)]
    pairs = torch.stack([part.sum(1).square() for part in parts])  # [documents, B]
    errors = torch.zeros_like(pairs, dtype=torch.float64)
    for document, part in enumerate(parts):
        for row in range(3):
            alone = [tuple(tensor[row : row + 1] for tensor in pair) for pair in (teacher, student)]
            errors[document, row] = reference(*alone, part[row : row + 1], 4) * pairs[document, row]
    expected = (errors.sum(0) / pairs.sum(0)).mean() if reduction == "rows" else errors.sum() / pairs.sum()
    found = attention_score_loss(teacher, student, parts, 4, reduction)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
