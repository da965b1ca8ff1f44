"""What every objective owes: a slow reference, zero when both agree, padding excluded, gradient to the student."""

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from pretrain.encoder import EncoderShape, Features
from pretrain.objectives import (
    HiddenStatesConfig,
    MiniLMv2Config,
    ObjectiveConfig,
    mapped_layers,
    published_teacher_layer,
)


def shape(num_layers=4, hidden_size=24, model_type="bert"):
    return EncoderShape(model_type, num_layers, hidden_size, 4, 32, 50, 40)


def features(num_layers, width, seed, requires_grad=False):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(3, 9, width, generator=generator).requires_grad_(requires_grad)  # noqa: E731
    every = Features()
    for layer in range(num_layers + 1):
        every.hidden_states[layer] = draw()
        every.query[layer], every.key[layer], every.value[layer] = draw(), draw(), draw()
    return every


def mask():
    real = torch.ones(3, 9, dtype=torch.bool)
    real[1, 4:] = False
    return real


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
            rows.append((error**2).mean(-1).mean())
        terms[f"hidden/{student_layer}"] = torch.stack(rows).mean()
        projection.float()
    return terms


@pytest.mark.parametrize("projection", ["per_layer", "shared"])
@pytest.mark.parametrize("normalize", [True, False])
def test_hidden_states_equal_the_reference(projection, normalize):
    config = HiddenStatesConfig(type="hidden_states", projection=projection, normalize_targets=normalize, weight=0.5)
    objective = config.build(shape(), shape(2, 12))
    teacher, student = features(4, 24, 0), features(2, 12, 1, requires_grad=True)
    terms, slow = objective(teacher, student, mask()), hidden_reference(objective, teacher, student, mask())
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
    assert all(value == 0 for value in objective(teacher, student, mask()).values())


def test_minilm_v2_sums_three_relations_of_the_layers_it_names():
    config = MiniLMv2Config(type="minilm_v2", num_relation_heads=4, teacher_layer=3, weight=2.0)
    objective = config.build(shape(), shape(2, 12))
    assert objective.teacher_reads.projections == {3}
    assert objective.student_reads.projections == {2}
    teacher, student = features(4, 24, 0), features(2, 12, 1)
    terms = objective(teacher, student, mask())
    assert list(terms) == ["relation/query", "relation/key", "relation/value"]
    torch.testing.assert_close(objective.total(terms), 2 * sum(terms.values()))
    student.key = dict.fromkeys(student.key, student.value[2])
    changed = objective(teacher, student, mask())
    assert changed["relation/query"] == terms["relation/query"]
    assert changed["relation/key"] != terms["relation/key"]


def test_layer_maps():
    assert mapped_layers("uniform", 12, 4) == [3, 6, 9, 12]
    assert mapped_layers("last", 12, 4) == [9, 10, 11, 12]
    assert mapped_layers([1, 5, 9], 12, 3) == [1, 5, 9]


@pytest.mark.parametrize(
    ("model_type", "layers", "expected"),
    [("bert", 12, 12), ("bert", 24, 21), ("xlm-roberta", 24, 19), ("roberta", 24, 19)],
)
def test_the_papers_teacher_layer(model_type, layers, expected):
    assert published_teacher_layer(shape(layers, model_type=model_type)) == expected


@pytest.mark.parametrize(
    ("config", "student", "key", "message"),
    [
        (
            {"type": "minilm_v2", "num_relation_heads": 8},
            shape(2, 12),
            "num_relation_heads",
            r"must divide the widths of teacher \(24\) and student \(12\), got 8; legal values: 12, 6, 4, 3, 2, 1",
        ),
        (
            {"type": "minilm_v2", "num_relation_heads": 4, "teacher_layer": 9},
            shape(2, 12),
            "teacher_layer",
            "the teacher has 4 layers, got 9",
        ),
        (
            {"type": "hidden_states"},
            shape(6, 12),
            "layer_map",
            "student of 6 layers cannot be mapped onto a teacher of 4",
        ),
        ({"type": "hidden_states"}, shape(3, 12), "layer_map", "teacher's 4 layers to be a multiple of 3; list them"),
        ({"type": "hidden_states", "layer_map": [1]}, shape(2, 12), "layer_map", "wants 2 teacher layers, .* got 1"),
        ({"type": "hidden_states", "layer_map": [1, 9]}, shape(2, 12), "layer_map", "the teacher has 4 layers, got 9"),
    ],
)
def test_what_cannot_work_is_said_with_the_key(config, student, key, message):
    decoded = TypeAdapter(ObjectiveConfig).validate_python(config)
    problems = list(decoded.problems(shape(), student))
    assert [found for found, _ in problems] == [key]
    with pytest.raises(ValueError, match=message):
        raise ValueError(problems[0][1])


def test_unknown_keys_and_types_are_refused():
    with pytest.raises(ValidationError, match="heads"):
        TypeAdapter(ObjectiveConfig).validate_python({"type": "minilm_v2", "num_relation_heads": 4, "heads": 2})
    with pytest.raises(ValidationError, match="does not match any of the expected tags"):
        TypeAdapter(ObjectiveConfig).validate_python({"type": "minilm_v3"})
