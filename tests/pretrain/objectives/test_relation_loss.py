"""The fast relation loss against a slow, obvious one: per row, real tokens only, float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.objectives.relation_loss import relation_loss


def reference(teacher, student, mask, num_heads):
    """MiniLMv2 equations 5 to 7, one row and one head at a time."""
    rows = []
    for row in range(len(mask)):
        real = mask[row].nonzero().flatten()
        heads = []
        for head in range(num_heads):
            relations = []
            for a, b in (teacher, student):
                width = a.shape[-1] // num_heads
                part = slice(head * width, (head + 1) * width)
                a_head, b_head = a[row, real, part].double(), b[row, real, part].double()
                relations.append((a_head @ b_head.T / width**0.5).log_softmax(-1))
            log_p, log_q = relations
            heads.append((log_p.exp() * (log_p - log_q)).sum(-1).mean())
        rows.append(torch.stack(heads).mean())
    return torch.stack(rows).mean()


def draw(seed, num_rows=3, length=10, same=False, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    teacher = tuple(torch.randn(num_rows, length, 24, generator=generator).to(dtype) for _ in range(2))
    student = [torch.randn(num_rows, length, 12, generator=generator).to(dtype).requires_grad_() for _ in range(2)]
    mask = torch.ones(num_rows, length, dtype=torch.bool)
    mask[0, 6:] = False
    mask[-1, 1:] = False
    return (teacher[0], teacher[0] if same else teacher[1]), (student[0], student[0] if same else student[1]), mask


@given(seed=st.integers(0, 2**30), heads=st.sampled_from([1, 2, 3, 4, 6, 12]), same=st.booleans())
@settings(max_examples=30)
def test_value_and_gradient_equal_the_reference(seed, heads, same):
    teacher, student, mask = draw(seed, same=same)
    inputs = {id(tensor): tensor for tensor in student}.values()
    fast, slow = relation_loss(teacher, student, mask, heads), reference(teacher, student, mask, heads)
    torch.testing.assert_close(fast.double(), slow, atol=1e-6, rtol=1e-5)
    for a, b in zip(torch.autograd.grad(fast, inputs), torch.autograd.grad(slow, inputs), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_zero_when_both_agree():
    teacher, _, mask = draw(0)
    student = tuple(tensor.clone().requires_grad_() for tensor in teacher)
    loss = relation_loss(teacher, student, mask, 4)
    assert loss.abs() < 1e-6
    assert all(gradient.abs().max() < 1e-7 for gradient in torch.autograd.grad(loss, student))


def test_padding_changes_nothing_and_gets_no_gradient():
    teacher, student, mask = draw(1)
    loss = relation_loss(teacher, student, mask, 4)
    gradient = torch.autograd.grad(loss, student)
    assert all((g[~mask] == 0).all() for g in gradient)
    wider = [torch.nn.functional.pad(t, (0, 0, 0, 5), value=100.0) for t in (*teacher, *student)]
    more = relation_loss((wider[0], wider[1]), (wider[2], wider[3]), torch.nn.functional.pad(mask, (0, 5)), 4)
    torch.testing.assert_close(more, loss)


def test_chunks_change_nothing():
    teacher, student, mask = draw(2)
    whole = relation_loss(teacher, student, mask, 6, chunk_bytes=1 << 30)
    by_one = relation_loss(teacher, student, mask, 6, chunk_bytes=1)
    torch.testing.assert_close(by_one, whole)
    for a, b in zip(torch.autograd.grad(whole, student), torch.autograd.grad(by_one, student), strict=True):
        torch.testing.assert_close(a, b)


def test_bfloat16_inputs_give_a_float32_loss_near_the_float32_one():
    exact = relation_loss(*draw(3), 4)
    low = relation_loss(*draw(3, dtype=torch.bfloat16), 4)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, exact, rtol=0.02, atol=0)


def test_autocast_does_not_lower_the_precision():
    teacher, student, mask = draw(4)
    with torch.autocast("cpu", torch.bfloat16):
        inside = relation_loss(teacher, student, mask, 4)
    assert torch.equal(inside, relation_loss(teacher, student, mask, 4))


def test_no_gradient_reaches_the_teacher():
    teacher, student, mask = draw(5)
    teacher = tuple(tensor.requires_grad_() for tensor in teacher)
    relation_loss(teacher, student, mask, 4).backward()
    assert all(tensor.grad is None for tensor in teacher)


@pytest.mark.parametrize(("heads", "message"), [(5, "the teacher's width 24"), (8, "the student's width 12")])
def test_heads_that_do_not_divide_are_refused(heads, message):
    teacher, student, mask = draw(6)
    with pytest.raises(ValueError, match=f"{heads} relation heads do not divide {message}"):
        relation_loss(teacher, student, mask, heads)


@pytest.mark.parametrize("same", [True, False])
def test_no_mask_is_a_mask_of_real_tokens_alone(same):
    teacher, student, mask = draw(7, same=same)
    inputs = list({id(tensor): tensor for tensor in student}.values())
    losses = [relation_loss(teacher, student, given, 4) for given in (None, torch.ones_like(mask))]
    torch.testing.assert_close(losses[0], losses[1])
    for a, b in zip(*(torch.autograd.grad(loss, inputs) for loss in losses), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("chunk_bytes", [1, 3 * 400, None])
@pytest.mark.parametrize("same", [True, False])
def test_relations_within_documents_equal_those_of_the_documents_alone(same, chunk_bytes):
    teacher, student, mask = draw(8, same=same)
    inputs = list({id(tensor): tensor for tensor in student}.values())
    documents = torch.tensor([[0, 0, 1, 1, 1, 2, -1, -1, -1, -1], [0] * 4 + [1] * 6, [0] + [-1] * 9])
    found = relation_loss(teacher, student, mask, 4, chunk_bytes=chunk_bytes, documents=documents)
    rows = []
    for row in range(3):
        divergences = []
        for document in range(int(documents[row].max()) + 1):
            real = documents[row : row + 1] == document
            alone = [tuple(tensor[row : row + 1] for tensor in pair) for pair in (teacher, student)]
            divergences.append(reference(*alone, real, 4) * real.sum())
        rows.append(torch.stack(divergences).sum() / mask[row].sum())
    slow = torch.stack(rows).mean()
    torch.testing.assert_close(found.double(), slow, atol=1e-6, rtol=1e-5)
    for a, b in zip(torch.autograd.grad(found, inputs), torch.autograd.grad(slow, inputs), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_one_document_a_row_is_the_whole_row():
    teacher, student, mask = draw(9)
    documents = torch.zeros_like(mask, dtype=torch.long)
    within = relation_loss(teacher, student, mask, 4, documents=documents)
    torch.testing.assert_close(within, relation_loss(teacher, student, mask, 4))
