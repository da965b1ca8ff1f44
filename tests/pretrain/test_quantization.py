"""Rounded arithmetic: what it gives, its gradients, and training that takes it up on the way."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional

from pretrain.quantization import QuantizationConfig, Rounding, check_rounding, round_blocks
from pretrain.students.student import Student, build_student
from tests.pretrain.tiny import batch, student_config, teacher_model, train


def rounded_slowly(value, low, high, step, zero=0):
    return (min(max(round(value / step) + zero, low), high) - zero) * step


def test_eight_bits_are_those_of_a_slow_reference():
    torch.manual_seed(0)
    inputs, weight, bias = torch.randn(2, 3, 5) + 1, torch.randn(4, 5), torch.randn(4)
    low, high = min(0.0, float(inputs.min())), float(inputs.max())
    step = (high - low) / 255
    zero = round(-low / step)
    values = inputs.clone().apply_(lambda value: rounded_slowly(value, 0, 255, step, zero))
    rows = weight.clone()
    for row in rows:
        size = float(row.abs().max()) / 64
        row.apply_(lambda value, size=size: rounded_slowly(value, -64, 64, size))
    with Rounding(8):
        found = functional.linear(inputs, weight, bias)
    torch.testing.assert_close(found, values @ rows.T + bias)
    assert not torch.allclose(found, functional.linear(inputs, weight, bias), atol=1e-3)


@pytest.mark.parametrize("num_inputs", [5, 32, 70])
def test_four_bits_are_those_of_a_slow_reference(num_inputs):
    torch.manual_seed(0)
    inputs, weight = torch.randn(3, num_inputs), torch.randn(4, num_inputs)
    expected = weight.clone()
    for row in expected:
        for start in range(0, num_inputs, 32):
            block = row[start : start + 32]
            step = float(max(block, key=abs)) / -8
            block.apply_(lambda value, step=step: rounded_slowly(value, -8, 7, step))
    with Rounding(4):
        found = functional.linear(inputs, weight)
    torch.testing.assert_close(found, inputs @ expected.T)
    numbers, steps = round_blocks(weight)
    assert numbers.shape == (4, -(-num_inputs // 32), 32) and steps.shape == (*numbers.shape[:2], 1)
    assert numbers.min() == -8 and numbers.max() <= 7


@pytest.mark.parametrize("bits", [8, 4])
def test_embeddings_have_256_steps(bits):
    table, ids = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)), torch.tensor([[3, 5], [3, 39]])
    step = float(table.max() - table.min()) / 255
    with Rounding(bits):
        found = functional.embedding(ids, table)
    assert 0 < (found - table[ids]).abs().max() <= step / 2 * 1.01
    torch.testing.assert_close((found / step).round() * step, found, atol=1e-5, rtol=0)


@pytest.mark.parametrize("bits", [8, 4])
def test_gradients_pass_as_if_nothing_was_rounded(bits):
    torch.manual_seed(0)
    inputs, weight = torch.randn(3, 40).requires_grad_(), torch.randn(4, 40).requires_grad_()
    upstream = torch.randn(3, 4)
    with Rounding(bits):
        functional.linear(inputs, weight).backward(upstream)
        rounded_inputs = functional.linear(inputs.detach(), torch.eye(40))
        rounded_weight = functional.linear(torch.eye(40), weight.detach()).T
    torch.testing.assert_close(weight.grad, upstream.T @ rounded_inputs)
    torch.testing.assert_close(inputs.grad, upstream @ rounded_weight)
    table = torch.randn(9, 4).requires_grad_()
    with Rounding(bits):
        functional.embedding(torch.tensor([2, 2, 5]), table).sum().backward()
    assert table.grad[:, 0].tolist() == [0, 0, 2, 0, 0, 1, 0, 0, 0]


@pytest.mark.parametrize("bits", [8, 4])
def test_zeros_stay_zeros_and_what_is_no_number_is_not_hidden(bits):
    weight, inputs = torch.randn(3, 40), torch.randn(2, 40)
    weight[1] = 0
    with Rounding(bits):
        assert not functional.linear(inputs, weight)[:, 1].any()
        assert not functional.linear(torch.zeros(2, 40), weight).any()
        for wrong in (torch.nan, torch.inf):
            inputs[0, 3] = wrong
            assert not functional.linear(inputs, weight).isfinite().all()


def test_the_share_of_steps_before_it_leaves_at_least_the_last():
    for begin, total, first in [(0.9, 10, 9), (0.9, 5, 4), (0.0, 3, 0), (0.5, 7, 3), (0.99, 2, 1)]:
        config = QuantizationConfig(weights=8, begin=begin)
        assert [config.is_due(step, total) for step in range(total)] == [step >= first for step in range(total)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"weights": 2}, "weights\n  Input should be 8 or 4"),
        ({"weights": 8, "begin": 1}, "begin\n  Input should be less than 1"),
        ({"weights": 8, "activations": 8}, "activations\n  Extra inputs are not permitted"),
    ],
)
def test_what_no_graph_computes_is_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        QuantizationConfig.model_validate(values)


def test_layers_that_training_does_not_round_are_named():
    model = nn.Sequential(nn.Linear(2, 2), nn.Conv1d(2, 2, 1), nn.LSTM(2, 2))
    message = (
        "weights: must be 4, or quantization left out: an int8 graph also rounds Conv1d, LSTM, which training does not"
    )
    with pytest.raises(ValueError, match=message):
        check_rounding(model, 8)
    check_rounding(model, 4)
    deberta = {"model_type": "deberta-v2", "options": {"conv_kernel_size": 3}}
    config = student_config(architecture=deberta, quantization={"weights": 8}, objective=[{"type": "hidden_states"}])
    with pytest.raises(ValueError, match="an int8 graph also rounds Conv1d"):
        build_student(config, teacher_model(), seed=0)


def students(**quantization):
    return [student_config("one", dropout_prob=0.2, quantization=quantization or None)]


@pytest.mark.parametrize("weights", [8, 4])
def test_steps_before_it_have_the_same_bits_and_those_after_it_do_not(tmp_path, weights):
    chosen = students(weights=weights, begin=0.5)
    for steps, is_same in [(4, True), (5, False)]:
        plain = train(tmp_path / f"plain{steps}", steps, students())["one"]
        rounded = train(tmp_path / f"rounded{steps}", steps, chosen)["one"]
        assert plain.keys() == rounded.keys()
        assert all(torch.equal(plain[name], rounded[name]) for name in plain) == is_same


@pytest.mark.parametrize(("zero_stage", "dtype"), [(0, "float32"), (1, "bfloat16"), (2, "float16")])
@pytest.mark.parametrize("stop", [4, 7])
def test_resumed_before_and_after_it_ends_with_the_same_bits(tmp_path, zero_stage, dtype, stop):
    settings = {"students": students(weights=8, begin=0.75), "zero_stage": zero_stage, "dtype": dtype}
    whole = train(tmp_path / "whole", 8, **settings)["one"]
    train(tmp_path / "parts", stop, **settings)
    parts = train(tmp_path / "parts", 8, **settings)["one"]
    assert all(torch.equal(whole[name], parts[name]) and whole[name].isfinite().all() for name in whole)


def test_a_finished_run_that_is_started_again_is_scored_as_it_ended(tmp_path, monkeypatch):
    chosen, seen = students(weights=8, begin=0.9), []
    train(tmp_path, 8, chosen)
    begin_step = Student.begin_step

    def watched(student, step, total_steps):
        begin_step(student, step, total_steps)
        seen.append(type(student.encoder.arithmetic))

    monkeypatch.setattr(Student, "begin_step", watched)
    train(tmp_path, 8, chosen)
    assert seen == [Rounding]


def test_what_is_read_of_the_student_is_rounded_and_the_model_itself_is_not():
    student = build_student(students(weights=8, begin=0.5)[0], teacher_model(), seed=0).eval()
    read = lambda: student.encoder(batch()).hidden_states[2]  # noqa: E731
    names = list(student.state_dict())
    student.begin_step(3, 8)
    plain = read()
    student.begin_step(4, 8)
    rounded = read()
    assert not torch.allclose(plain, rounded, atol=1e-3)
    published = student.published(**batch()).last_hidden_state
    torch.testing.assert_close(published[0], plain[0], atol=1e-5, rtol=0)
    with Rounding(8):
        torch.testing.assert_close(student.published(**batch()).last_hidden_state[0], rounded[0], atol=1e-5, rtol=0)
    assert list(student.state_dict()) == names
