"""The Triton kernels against the portable code, on a GPU or in Triton's interpreter."""

import importlib.util

import pytest
import torch

from pretrain.objectives.kernel_choice import exact_loss_and_gradients, relative_error, try_triton
from pretrain.objectives.relation_loss import relation_loss

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


def draw(length: int, same: bool, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(length)
    teacher = [torch.randn(3, length, 48, generator=generator).to(DEVICE, dtype) for _ in range(2)]
    student = [torch.randn(3, length, 24, generator=generator).to(DEVICE, dtype).requires_grad_() for _ in range(2)]
    mask = torch.ones(3, length, dtype=torch.bool, device=DEVICE)
    mask[0, length // 2 :] = False
    mask[1, 1:] = False
    pairs = [(pair[0], pair[0] if same else pair[1]) for pair in (teacher, student)]
    return *pairs, mask


@needs_triton
@pytest.mark.parametrize("same", [True, False], ids=["one tensor", "two tensors"])
@pytest.mark.parametrize("length", [9, 16, 70])
def test_value_and_gradient_equal_the_portable_kernel(length, same):
    teacher, student, mask = draw(length, same)
    inputs = list({id(tensor): tensor for tensor in student}.values())
    for heads in (1, 3):
        losses = [relation_loss(teacher, student, mask, heads, kernel) for kernel in ("portable", "triton")]
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-6)
        expected, found = (torch.autograd.grad(loss, inputs) for loss in losses)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
            assert (a[~mask] == 0).all()


@needs_triton
@pytest.mark.parametrize("same", [True, False], ids=["one tensor", "two tensors"])
def test_documents_of_a_row_are_apart_as_in_the_portable_kernel(same):
    teacher, student, mask = draw(70, same)
    inputs = list({id(tensor): tensor for tensor in student}.values())
    documents = (torch.arange(70, device=DEVICE) >= 30).long() + (torch.arange(70, device=DEVICE) >= 33).long()
    documents = documents.expand(3, -1).masked_fill(~mask, -1)
    losses = [
        relation_loss(teacher, student, mask, 3, kernel, documents=documents) for kernel in ("portable", "triton")
    ]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-6)
    expected, found = (torch.autograd.grad(loss, inputs) for loss in losses)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@needs_triton
@pytest.mark.skipif(DEVICE == "cpu", reason="takes a GPU's time")
def test_more_rows_and_heads_than_a_second_dimension_of_cuda_has():
    generator = torch.Generator().manual_seed(0)
    teacher, student = (torch.randn(1400, 9, 48, generator=generator).to(DEVICE) for _ in range(2))  # 67,200
    losses = [relation_loss((teacher,) * 2, (student,) * 2, None, 48, kernel) for kernel in ("portable", "triton")]
    torch.testing.assert_close(losses[1], losses[0])


@needs_triton
def test_models_that_agree_have_no_loss_and_padding_does_not_count():
    teacher, student, mask = draw(20, same=True)
    assert relation_loss(teacher, teacher, mask, 3, "triton").abs() < 1e-6
    wider = [(torch.nn.functional.pad(a, (0, 0, 0, 30), value=50.0),) * 2 for a, _ in (teacher, student)]
    more = relation_loss(*wider, torch.nn.functional.pad(mask, (0, 30)), 3, "triton")
    torch.testing.assert_close(more, relation_loss(teacher, student, mask, 3, "triton"))


@needs_triton
def test_bfloat16_inputs_give_a_float32_loss_near_the_float32_one():
    loss = relation_loss(*draw(20, same=True, dtype=torch.bfloat16), 3, "triton")
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, relation_loss(*draw(20, same=True), 3), rtol=0.02, atol=0)


@needs_triton
@pytest.mark.parametrize("precision", ["high", "highest"])
@pytest.mark.parametrize("heads", [1, 4])  # of 96 and 24 dimensions: tiles of both sizes
def test_tiles_of_every_size_give_the_same(heads, precision):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        generator = torch.Generator().manual_seed(0)
        teacher, student = (torch.randn(1, 40, width, generator=generator).to(DEVICE) for width in (96, 24))
        pairs = (teacher, teacher), (student.requires_grad_(),) * 2
        mask = torch.arange(40, device=DEVICE).expand(1, -1) < 30
        loss = relation_loss(*pairs, mask, heads, "triton")
        found = [loss, *torch.autograd.grad(loss, [student])]
    finally:
        torch.set_float32_matmul_precision(before)
    expected = exact_loss_and_gradients(*pairs, mask, heads)
    tolerance = 1e-2 if DEVICE == "cuda" and precision == "high" else 1e-5
    assert all(relative_error(a, b) < tolerance for a, b in zip(found, expected, strict=True))


@needs_triton
def test_the_trial_finds_nothing_wrong():
    models = (48, torch.bfloat16, True), (24, torch.bfloat16, True)
    assert try_triton(torch.device(DEVICE), *models, 1, "high") is None


@needs_triton
def test_the_trial_finds_a_kernel_that_is_wrong_or_does_not_run(monkeypatch):
    from pretrain.objectives import relation_kernels

    models = (48, torch.float32, False), (24, torch.float32, False)
    zero = torch.zeros(2, 80, 24, device=DEVICE)
    monkeypatch.setattr(relation_kernels, "relation_loss_and_gradient", lambda *_: (zero.sum(), zero, zero))
    assert try_triton(torch.device(DEVICE), *models, 2, "high") == (
        "its result on random tokens is wrong (relative error 1)"
    )

    def fail(*_: object) -> None:
        raise RuntimeError("out of resource: shared memory,\n Required: 5")

    monkeypatch.setattr(relation_kernels, "relation_loss_and_gradient", fail)
    assert try_triton(torch.device(DEVICE), *models, 3, "high") == (
        "RuntimeError: out of resource: shared memory, Required: 5"
    )
