"""Losses by chunks of positions against slow, obvious ones: position by position, float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.objectives.vocabulary_losses import distillation_loss, masked_language_loss, sampled_language_loss

VOCAB = 23


def draw(seed, num=7, width=6, dtype=torch.float32, scale=1.0):
    """States, weight and bias of one model."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((num, width), (VOCAB, width), (VOCAB,))
    return tuple((scale * torch.randn(*shape, generator=generator)).to(dtype).requires_grad_() for shape in shapes)


def labels_and_shares(seed, num=7):
    generator = torch.Generator().manual_seed(seed)
    shares = torch.rand(num, generator=generator)
    return torch.randint(VOCAB, (num,), generator=generator), shares / shares.sum()


def log_softmax(model, position, temperature=1.0):
    states, weight, bias = (tensor.double() for tensor in model)
    return torch.log_softmax((weight @ states[position] + bias) / temperature, 0)


def slow_masked(model, labels, shares):
    return -sum(shares[i].double() * log_softmax(model, i)[labels[i]] for i in range(len(labels)))


def slow_distillation(teacher, student, shares, temperature):
    total = torch.zeros((), dtype=torch.float64)
    for i, share in enumerate(shares.double()):
        log_p, log_q = log_softmax(teacher, i, temperature).detach(), log_softmax(student, i, temperature)
        total = total + share * temperature**2 * (log_p.exp() * (log_p - log_q)).sum()
    return total


def assert_same_gradients(fast, slow, inputs):
    pairs = zip(torch.autograd.grad(fast, inputs), torch.autograd.grad(slow, inputs), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


@given(seed=st.integers(0, 2**30), chunk_bytes=st.sampled_from([1, 3 * 4 * VOCAB, 1 << 30]))
@settings(max_examples=25)
def test_masked_loss_and_gradient_equal_the_reference(seed, chunk_bytes):
    model, (labels, shares) = draw(seed), labels_and_shares(seed)
    fast = masked_language_loss(*model, labels, shares, chunk_bytes)
    slow = slow_masked(model, labels, shares)
    torch.testing.assert_close(fast.double(), slow, atol=1e-6, rtol=1e-5)
    assert_same_gradients(fast, slow, model)


@given(
    seed=st.integers(0, 2**30),
    chunk_bytes=st.sampled_from([1, 3 * 4 * VOCAB, 1 << 30]),
    temperature=st.sampled_from([0.5, 1.0, 2.0]),
)
@settings(max_examples=25)
def test_distillation_loss_and_gradient_equal_the_reference(seed, chunk_bytes, temperature):
    teacher, student, shares = draw(seed, width=9), draw(seed + 1), labels_and_shares(seed)[1]
    fast = distillation_loss(teacher, student, shares, temperature, chunk_bytes)
    slow = slow_distillation(teacher, student, shares, temperature)
    torch.testing.assert_close(fast.double(), slow, atol=1e-6, rtol=1e-5)
    assert_same_gradients(fast, slow, student)


def test_distillation_is_zero_when_both_agree_and_gives_the_teacher_nothing():
    teacher, shares = draw(0), labels_and_shares(0)[1]
    student = tuple(tensor.detach().clone().requires_grad_() for tensor in teacher)
    loss = distillation_loss(teacher, student, shares, 2.0)
    assert loss.abs() < 1e-6
    loss.backward()
    assert all(tensor.grad.abs().max() < 1e-6 for tensor in student)
    assert all(tensor.grad is None for tensor in teacher)


def test_no_positions_give_no_loss_and_no_gradient():
    model = draw(0, num=0)
    labels, shares = torch.zeros(0, dtype=torch.int64), torch.zeros(0)
    for loss in (masked_language_loss(*model, labels, shares), distillation_loss(draw(1, num=0), model, shares, 2.0)):
        assert loss == 0
        assert all((gradient == 0).all() for gradient in torch.autograd.grad(loss, model))


def test_bfloat16_inputs_give_a_float32_loss_near_the_float32_one():
    labels, shares = labels_and_shares(3)
    of = lambda dtype: (  # noqa: E731
        masked_language_loss(*draw(3, dtype=dtype), labels, shares),
        distillation_loss(draw(4, dtype=dtype), draw(3, dtype=dtype), shares, 2.0),
    )
    for low, exact in zip(of(torch.bfloat16), of(torch.float32), strict=True):
        assert low.dtype == torch.float32
        torch.testing.assert_close(low, exact, rtol=0.02, atol=0)


def test_autocast_does_not_lower_the_precision():
    labels, shares = labels_and_shares(5)
    with torch.autocast("cpu", torch.bfloat16):
        inside = masked_language_loss(*draw(5), labels, shares), distillation_loss(draw(6), draw(5), shares, 2.0)
    assert inside[0] == masked_language_loss(*draw(5), labels, shares)
    assert inside[1] == distillation_loss(draw(6), draw(5), shares, 2.0)


def test_large_logits_stay_finite():
    labels, shares = labels_and_shares(7)
    model = draw(7, scale=100.0)
    loss = masked_language_loss(*model, labels, shares) + distillation_loss(draw(8, scale=100.0), model, shares, 0.5)
    assert loss.isfinite() and all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, model))


def test_memory_does_not_grow_with_positions_times_vocabulary():
    """What autograd keeps is of the size of the inputs, however many positions there are."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda t: t):
        masked_language_loss(*draw(0, num=500), *labels_and_shares(0, num=500))
    assert kept and sum(kept) <= 500 * 6 + VOCAB * 7


@pytest.mark.parametrize("chunk_bytes", [1, 1 << 30])
def test_sampled_tokens_have_the_softmaxs_distribution_and_the_loss_that_of_masked_tokens(chunk_bytes):
    """Draws at even distances reach each token as often as its probability says, up to one."""
    num = 1000
    states, weight, bias = draw(0, num=1, scale=2.0)
    labels, shares = labels_and_shares(1, num)
    draws = (torch.arange(num, dtype=torch.float64) + 0.5) / num
    every = states.expand(num, -1)
    loss, sampled = sampled_language_loss(every, weight, bias, labels, shares, draws, chunk_bytes)
    counts = torch.bincount(sampled, minlength=VOCAB)
    assert (counts - num * log_softmax((states, weight, bias), 0).exp()).abs().max() <= 1
    assert torch.equal(loss, masked_language_loss(every, weight, bias, labels, shares, chunk_bytes))


def test_a_token_without_probability_is_never_sampled():
    weight, bias = torch.zeros(VOCAB, 2), torch.full((VOCAB,), -1e4)
    bias[[3, 9]] = 0.0
    draws = torch.tensor([0.0, 0.4999, 0.5, 1 - 2**-53], dtype=torch.float64)
    labels = torch.zeros(4, dtype=torch.long)
    _, sampled = sampled_language_loss(torch.zeros(4, 2), weight, bias, labels, torch.ones(4), draws)
    assert sampled.tolist() == [3, 3, 9, 9]
