"""The Triton kernels against the portable code, on a GPU or in Triton's interpreter."""

import importlib.util
import re

import pytest
import torch

from pretrain.relation_objectives import MiniLMConfig, MiniLMv2Config
from pretrain.relations import relation_loss
from tests.pretrain.tiny import shape

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


def test_a_kernel_that_cannot_run_here_is_refused(monkeypatch):
    config = MiniLMv2Config(type="minilm_v2", num_relation_heads=4, kernel="triton")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    problem = "triton is not installed (it comes with the CUDA builds of torch); use portable"
    assert list(config.problems(shape(), shape(2, 12))) == [("kernel", problem)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    problem = "triton wants a GPU (or, to try it, TRITON_INTERPRET=1); use portable"
    assert list(config.problems(shape(), shape(2, 12))) == [("kernel", problem)]


@pytest.mark.parametrize(
    ("teacher", "student", "heads", "other"),
    [(768, 384, 2, "num_relation_heads 3 or the portable kernel"), (1024, 312, 1, "num_relation_heads 4 or .*")],
)
def test_heads_too_wide_for_the_triton_kernel_are_refused(monkeypatch, teacher, student, heads, other):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    shapes = shape(hidden_size=teacher), shape(2, student)
    wide = f"triton takes relation heads of up to 256 dimensions, {heads} of them are {teacher // heads} wide; use "
    for config in (
        MiniLMv2Config(type="minilm_v2", num_relation_heads=heads, kernel="triton"),
        MiniLMConfig(type="minilm", num_relation_heads=heads, kernel="triton"),
    ):
        [(key, message)] = config.problems(*shapes)
        assert key == "kernel" and re.fullmatch(wide + other, message)
        assert not list(config.model_copy(update={"kernel": "portable"}).problems(*shapes))


def test_no_number_of_heads_may_suit_the_triton_kernel(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    config = MiniLMv2Config(type="minilm_v2", num_relation_heads=1, kernel="triton")
    [(_, message)] = config.problems(shape(hidden_size=1024), shape(2, 311))
    assert message.endswith("1024 wide; use the portable kernel")
