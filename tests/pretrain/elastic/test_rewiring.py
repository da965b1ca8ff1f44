"""Neurons sorted by importance: what it measures, on which tokens, and that the student starts as it would have."""

import pytest
import torch
from torch import Tensor

from pretrain.elastic.rewiring import Importance, rewire
from pretrain.elastic.slices import find_neurons
from pretrain.models.structure import layers_of
from pretrain.models.teacher import Teacher
from pretrain.students.student import Student, build_student
from tests.pretrain.tiny import batch, student_config, teacher_model

BATCHES = [batch(seed=seed) for seed in range(6)]


def build(**changes: object) -> tuple[Student, Teacher]:
    settings = {
        "elastic": {"feed_forward": [8]},
        "objective": [{"type": "hidden_states"}],
        "init": {"layers": "uniform"},
    }
    model = teacher_model(initializer_range=0.3)
    student = build_student(student_config(**settings | changes), model, 1, sample=batch())
    return student, Teacher(model, [student.teacher_reads], "float32", "cpu")


def loss(student: Student, teacher: Teacher, inputs: dict[str, Tensor]) -> Tensor:
    return student.loss_of(student.encoder, student.objectives, inputs, teacher(inputs))[0]


def importance(student: Student, teacher: Teacher, batches: list[dict[str, Tensor]]) -> list[Tensor]:
    found = Importance(student.encoder.model)
    for inputs in batches:
        loss(student, teacher, inputs).backward()
        found.add()
        student.zero_grad()
    return found.layers


def ranks(values: Tensor) -> Tensor:
    return values.argsort().argsort().float()


def test_importance_agrees_with_taking_neurons_away():
    """Rank correlation with |L(without the neuron) - L|, summed over batches."""
    student, teacher = build()
    found = importance(student, teacher, BATCHES)
    for layer, scores in zip(layers_of(student.encoder.model), found, strict=True):
        weight, wanted = layer.output.dense.weight, torch.zeros(20)
        with torch.no_grad():
            before = weight.clone()
            for inputs in BATCHES:
                whole = loss(student, teacher, inputs)
                for neuron in range(20):
                    weight[:, neuron] = 0
                    wanted[neuron] += (loss(student, teacher, inputs) - whole).abs()
                    weight.copy_(before)
        assert torch.corrcoef(torch.stack([ranks(scores), ranks(wanted)]))[0, 1] > 0.6


def test_padding_has_no_importance():
    student, teacher = build()
    padded = [{**one, "input_ids": one["input_ids"].masked_fill(one["attention_mask"] == 0, 3)} for one in BATCHES]
    for found, wanted in zip(importance(student, teacher, padded), importance(student, teacher, BATCHES), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-8)
        assert wanted.min() > 0


def test_gradients_of_one_batch_are_not_added_to_the_next():
    student, teacher = build()
    both = importance(student, teacher, BATCHES[:2])
    each = [importance(student, teacher, [one]) for one in BATCHES[:2]]
    for found, first, second in zip(both, *each, strict=True):
        torch.testing.assert_close(found, first + second)


def test_a_students_best_neurons_come_first_and_it_computes_the_same():
    student, teacher = build()
    wanted = importance(student, teacher, BATCHES)
    before = student.encoder(batch()).hidden_states
    student.rewire(teacher, BATCHES)
    after = student.encoder(batch()).hidden_states
    assert all((after[layer] - before[layer]).abs().max() < 1e-5 for layer in before)
    for found, scores in zip(importance(student, teacher, BATCHES), wanted, strict=True):
        assert (found.diff() <= 1e-6).all() and not (scores.diff() <= 1e-6).all()
        torch.testing.assert_close(found, scores.sort(descending=True).values, rtol=1e-3, atol=1e-6)
    assert all(one.grad is None for one in student.parameters()) and student.training


@pytest.mark.parametrize(
    "elastic", [{"depths": [1]}, {"feed_forward": [8], "rewire": False}, {"feed_forward": [20]}, None]
)
def test_nothing_is_sorted_where_every_size_has_all_neurons_or_it_is_not_wanted(elastic):
    student, teacher = build(elastic=elastic)
    before = {name: parameter.clone() for name, parameter in student.named_parameters()}
    student.rewire(teacher, BATCHES)
    assert all(torch.equal(parameter, before[name]) for name, parameter in student.named_parameters())


def test_a_layer_that_no_objective_reaches_stays_as_it_is():
    """MiniLMv2 reads queries, keys and values of the last layer."""
    student, teacher = build(objective=[{"type": "minilm_v2", "num_relation_heads": 4}])
    last = layers_of(student.encoder.model)[1].output.dense.weight.clone()
    student.rewire(teacher, BATCHES)
    assert torch.equal(layers_of(student.encoder.model)[1].output.dense.weight, last)


def test_neurons_that_cannot_be_sorted_are_told(monkeypatch):
    """A family of which one weight is overlooked."""
    model = teacher_model()
    places = dict(list(find_neurons(model.config).items())[1:])
    monkeypatch.setattr("pretrain.elastic.rewiring.find_neurons", lambda config: places)
    with pytest.raises(ValueError, match="neurons of a bert model cannot be sorted without changing what it computes"):
        rewire(model, [torch.arange(32.0)] * 4)
