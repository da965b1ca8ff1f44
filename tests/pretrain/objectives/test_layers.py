"""Every objective equals a slow reference, is zero for equal models, excludes padding, and trains the student only."""

import pytest
import torch

from pretrain.models.encoder import Features
from pretrain.objectives.attention_score_loss import attention_score_loss
from pretrain.objectives.layers import HiddenStatesConfig, PatientKDConfig, TinyBERTConfig
from tests.pretrain.objectives.test_attention_score_loss import reference as score_reference
from tests.pretrain.tiny import feature_batch, features, shape


def mask():
    return feature_batch()["attention_mask"].bool()


def mean_of(values, reduction):
    """The mean of values of every real token, a tensor a row: over all of them, or over a row's and then over rows."""
    return torch.cat(values).mean() if reduction == "tokens" else torch.stack([row.mean() for row in values]).mean()


def hidden_reference(objective, teacher, student, real):
    """TinyBERT equations 8 and 9, row by row over real tokens in float64."""
    terms = {}
    for index, (student_layer, teacher_layer) in enumerate(objective.pairs):
        projection = objective.projections[index % len(objective.projections)].double()
        rows = []
        for row in range(len(real)):
            target = teacher.hidden_states[teacher_layer][row, real[row]].double()
            if objective.normalize_targets:
                target = (target - target.mean(-1, keepdim=True)) / (
                    target.var(-1, correction=0, keepdim=True) + 1e-5
                ).sqrt()
            error = projection(student.hidden_states[student_layer][row, real[row]].double()) - target
            rows.append((error**2).mean(-1))
        terms[f"hidden/{student_layer}"] = mean_of(rows, objective.reduction)
        projection.float()
    return terms


@pytest.mark.parametrize("projection", ["per_layer", "shared"])
@pytest.mark.parametrize(("normalize", "reduction"), [(True, "tokens"), (False, "rows")])
def test_hidden_states_equal_the_reference(projection, normalize, reduction):
    settings = {"normalize_targets": normalize, "reduction": reduction, "weight": 0.5}
    config = HiddenStatesConfig(type="hidden_states", projection=projection, **settings)
    objective = config.build(shape(), shape(2, 12))
    teacher, student = features(4, 24, 0), features(2, 12, 1, requires_grad=True)
    terms, slow = objective(teacher, student, feature_batch()), hidden_reference(objective, teacher, student, mask())
    assert list(terms) == ["hidden/0", "hidden/1", "hidden/2"]
    for name in terms:
        torch.testing.assert_close(terms[name].double(), slow[name], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(objective.total(terms), 0.5 * sum(terms.values()))
    inputs = [student.hidden_states[layer] for layer in range(3)]
    fast_gradient = torch.autograd.grad(objective.total(terms), inputs)
    slow_gradient = torch.autograd.grad(0.5 * sum(slow.values()), inputs)
    for a, b in zip(fast_gradient, slow_gradient, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
        assert (a[~mask()] == 0).all()


def test_hidden_states_are_zero_when_the_projection_gives_the_target():
    config = HiddenStatesConfig(type="hidden_states", normalize_targets=False, projection="shared")
    objective = config.build(shape(4, 12), shape(2, 12))
    with torch.no_grad():
        objective.projections[0].weight.copy_(torch.eye(12))
        objective.projections[0].bias.zero_()
    teacher, student = features(4, 12, 0), Features()
    student.hidden_states = {layer: teacher.hidden_states[above] for layer, above in objective.pairs}
    assert all(value == 0 for value in objective(teacher, student, feature_batch()).values())


@pytest.mark.parametrize("reduction", ["tokens", "rows"])
def test_tinybert_adds_the_scores_of_the_mapped_layers(reduction):
    config = TinyBERTConfig(type="tinybert", layer_map=[2, 4], reduction=reduction)
    objective = config.build(shape(), shape(2, 12))
    assert (objective.teacher_reads.hidden_states, objective.teacher_reads.projections) == ({0, 2, 4}, {2, 4})
    assert (objective.student_reads.hidden_states, objective.student_reads.projections) == ({0, 1, 2}, {1, 2})
    assert len(objective.projections) == 1 and not objective.normalize_targets
    teacher, student = features(4, 24, 0), features(2, 12, 1, requires_grad=True)
    terms = objective(teacher, student, feature_batch())
    slow = hidden_reference(objective, teacher, student, mask())
    for layer, above in ((1, 2), (2, 4)):
        of_teacher, of_student = (teacher.query[above], teacher.key[above]), (student.query[layer], student.key[layer])
        slow[f"attention/{layer}"] = score_reference(of_teacher, of_student, mask(), 4, reduction)
    assert list(terms) == ["hidden/0", "hidden/1", "hidden/2", "attention/1", "attention/2"]
    for name in terms:
        torch.testing.assert_close(terms[name].double(), slow[name], rtol=1e-5, atol=1e-6)


def patient_reference(objective, teacher, student):
    """Patient-KD equation 7, row by row in float64."""
    terms = {}
    for layer, above in objective.pairs:
        rows = []
        for row in range(3):
            output = student.hidden_states[layer][row, 0].double()
            if hasattr(objective.projection, "weight"):
                output = objective.projection.weight.double() @ output
            target = teacher.hidden_states[above][row, 0].double()
            rows.append((output / output.norm() - target / target.norm()).square().sum())
        terms[f"patient/{layer}"] = torch.stack(rows).mean()
    return terms


@pytest.mark.parametrize("width", [12, 24])
def test_patient_states_equal_the_reference(width):
    objective = PatientKDConfig(type="pkd", layer_map=[1, 3]).build(shape(), shape(2, width))
    teacher, student = features(4, 24, 0), features(2, width, 1, requires_grad=True)
    terms, slow = objective(teacher, student, feature_batch()), patient_reference(objective, teacher, student)
    inputs = [student.hidden_states[layer] for layer in (1, 2)]
    for name in terms:
        torch.testing.assert_close(terms[name].double(), slow[name], rtol=1e-5, atol=1e-6)
    fast_gradient = torch.autograd.grad(sum(terms.values()), inputs)
    for a, b in zip(fast_gradient, torch.autograd.grad(sum(slow.values()), inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
        assert (a[:, 1:] == 0).all()  # the first token alone is read
    if width == 24:
        student.hidden_states = {1: 3 * teacher.hidden_states[1], 2: teacher.hidden_states[3]}
        assert all(value < 1e-12 for value in objective(teacher, student, feature_batch()).values())


def test_the_maps_of_patient_kd_leave_out_the_last_layer():
    """The paper's own: a student of 6 layers and a teacher of 12."""
    layers = lambda layer_map: PatientKDConfig(type="pkd", layer_map=layer_map).layers(shape(12), shape(6))  # noqa: E731
    assert layers("skip") == [2, 4, 6, 8, 10]
    assert layers("last") == [7, 8, 9, 10, 11]
    assert layers([1, 12]) == [1, 12]


@pytest.mark.parametrize("config", [PatientKDConfig(type="pkd"), TinyBERTConfig(type="tinybert")])
def test_projections_start_at_the_basis(config):
    objective = config.build(shape(), shape(2, 12))
    basis = torch.randn(24, 12)
    objective.start_from(basis)
    assert all(torch.equal(weight, basis) for name, weight in objective.named_parameters() if "weight" in name)
    assert all((bias == 0).all() for name, bias in objective.named_parameters() if "bias" in name)


def test_scores_within_documents_are_those_of_each_document():
    objective = TinyBERTConfig(type="tinybert", layer_map=[2, 4]).build(shape(), shape(2, 12))
    teacher, student, batch = features(4, 24, 0), features(2, 12, 1), feature_batch()
    documents = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2, 2]).expand(3, -1).masked_fill(~mask(), -1)
    terms = objective(teacher, student, batch | {"document_ids": documents})
    plain = objective(teacher, student, batch)
    for layer, above in ((1, 2), (2, 4)):
        pairs = (teacher.query[above], teacher.key[above]), (student.query[layer], student.key[layer])
        parts = [documents == number for number in range(3)]
        assert terms[f"attention/{layer}"] == attention_score_loss(*pairs, parts, 4, "tokens")
        assert terms[f"attention/{layer}"] != plain[f"attention/{layer}"]
        assert terms[f"hidden/{layer}"] == plain[f"hidden/{layer}"]
