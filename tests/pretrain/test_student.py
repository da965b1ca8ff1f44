"""Where a student's weights start, which of them train, and what cannot be built."""

import pytest
import torch

from pretrain.encoder import FAMILIES, EncoderShape
from pretrain.student import build_student, principal_components, random_rotation
from pretrain.teacher import Teacher
from tests.pretrain.tiny import batch, student_config, teacher_model

RELATIONS = [{"type": "minilm_v2", "num_relation_heads": 4}]


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_family_distils_and_its_gradient_stays_with_the_student(model_type):
    model = teacher_model(model_type)
    student = build_student(student_config(), model, seed=0)
    teacher = Teacher(model, [student.teacher_reads], "float32", "cpu")
    loss, terms = student(batch(), teacher(batch()))
    loss.backward()
    assert set(terms) == {
        "loss",
        "relation/query",
        "relation/key",
        "relation/value",
        "hidden/0",
        "hidden/1",
        "hidden/2",
    }
    torch.testing.assert_close(sum(value for name, value in terms.items() if name != "loss"), terms["loss"])
    assert all(parameter.grad is None for parameter in teacher.parameters())
    words = student.encoder.model.get_input_embeddings().weight
    assert words.grad is not None and words.grad.abs().sum() > 0


def test_narrower_embeddings_keep_the_teachers_geometry():
    model = teacher_model()
    with torch.no_grad():  # word vectors that vary in 10 directions: 12 components lose nothing
        words = model.embeddings.word_embeddings.weight
        words.copy_(torch.randn(50, 10) @ torch.randn(10, 24))
    student = build_student(student_config(), model, seed=0)
    small = student.encoder.model.embeddings.word_embeddings.weight
    centred = lambda table: table - table.mean(0)  # noqa: E731
    torch.testing.assert_close(
        centred(small) @ centred(small).T, centred(words) @ centred(words).T, rtol=1e-3, atol=1e-2
    )


def test_equal_widths_copy_and_wider_ones_rotate():
    model = teacher_model()
    same = build_student(student_config(hidden_size=24), model, seed=0).encoder.model.embeddings
    for name, tensor in model.embeddings.state_dict().items():
        assert torch.equal(same.state_dict()[name], tensor)
    wider = build_student(student_config(hidden_size=32), model, seed=0).encoder.model.embeddings.word_embeddings.weight
    words = model.embeddings.word_embeddings.weight
    torch.testing.assert_close(wider @ wider.T, words @ words.T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("width", [12, 24, 32])
def test_projections_start_at_the_map_between_the_embeddings(width):
    model = teacher_model()
    student = build_student(student_config(hidden_size=width), model, seed=0)
    small, words = student.encoder.model.embeddings.word_embeddings.weight, model.embeddings.word_embeddings.weight
    for projection in student.objectives[1].projections:
        basis = projection.weight
        torch.testing.assert_close(words @ basis, small, rtol=1e-4, atol=1e-5)
        narrow = basis.T @ basis if width <= 24 else basis @ basis.T
        torch.testing.assert_close(narrow, torch.eye(min(width, 24)), atol=1e-5, rtol=0)
        assert not projection.bias.any()
    scratch = build_student(student_config(hidden_size=width, init={"embeddings": "scratch"}), model, seed=0)
    assert scratch.objectives[1].projections[0].bias.any()


def test_layers_are_copied_as_listed():
    model = teacher_model()
    config = student_config(hidden_size=24, intermediate_size=32, init={"layers": [2, 4]})
    student = build_student(config, model, seed=0)
    for index, number in enumerate([2, 4]):
        for name, tensor in model.encoder.layer[number - 1].state_dict().items():
            assert torch.equal(student.encoder.model.encoder.layer[index].state_dict()[name], tensor)


def test_the_start_is_the_same_for_the_same_seed_and_leaves_the_generator_alone():
    model = teacher_model()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (build_student(student_config(), model, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_what_no_objective_reaches_is_frozen_and_named():
    model = teacher_model()
    student = build_student(student_config(objective=RELATIONS), model, seed=0)
    names = student.freeze_unreached(Teacher(model, [student.teacher_reads], "float32", "cpu"))
    assert {name.split(".")[0] for name in names} == {"encoder", "pooler"}
    assert all("layer.1." in name for name in names if name.startswith("encoder"))
    assert not any("self." in name for name in names)
    for name, parameter in student.encoder.model.named_parameters():
        assert parameter.requires_grad == (name not in names)
        assert parameter.grad is None
    assert student_config(objective=[{"type": "hidden_states"}])  # which reaches all but the pooler:
    student = build_student(student_config(objective=[{"type": "hidden_states"}]), teacher_model(), seed=0)
    names = student.freeze_unreached(Teacher(teacher_model(), [student.teacher_reads], "float32", "cpu"))
    assert names == ["pooler.dense.weight", "pooler.dense.bias"]


def test_dropout_is_the_configs_while_distilling_and_the_familys_when_published():
    student = build_student(student_config(dropout_prob=0.3), teacher_model(), seed=0)
    rates = {module.p for module in student.modules() if isinstance(module, torch.nn.Dropout)}
    assert rates == {0.3}
    assert student.encoder.model.config.hidden_dropout_prob == 0.1


def test_principal_components_are_those_of_the_singular_value_decomposition():
    vectors = torch.randn(40, 6, dtype=torch.float64) * torch.tensor([5.0, 4, 3, 2, 1, 0.1], dtype=torch.float64)
    basis = principal_components(vectors, 3)
    _, _, directions = torch.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    torch.testing.assert_close((basis.T @ directions[:3].T).abs(), torch.eye(3, dtype=torch.float64), atol=1e-6, rtol=0)
    assert (basis.gather(0, basis.abs().argmax(0, keepdim=True)) > 0).all()
    with pytest.raises(ValueError, match="embeddings of width 6 have no 7 principal components"):
        principal_components(vectors, 7)
    rotation = random_rotation(4, 9)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(4))


@pytest.mark.parametrize(
    ("changes", "model_type", "message"),
    [
        (
            {"num_attention_heads": 5},
            "bert",
            r"num_attention_heads: must divide hidden_size \(12\), got 5; legal values: 12",
        ),
        ({"init": {"layers": [1]}, "hidden_size": 24}, "bert", "init.layers: wants 2 teacher layers, got 1"),
        ({"init": {"layers": [1, 9]}, "hidden_size": 24}, "bert", "init.layers: the teacher has 4 layers, got 9"),
        ({"init": {"layers": [1, 2]}}, "bert", "init.layers: copies need the teacher's hidden_size 24, got 12"),
        ({"init": {"layers": [1, 2]}, "hidden_size": 24}, "albert", "init.layers: an ALBERT teacher shares its layers"),
        (
            {"intermediate_size": 99, "hidden_size": 24, "init": {"layers": [1, 2]}},
            "bert",
            "copies need the teacher's intermediate_size 32, got 99",
        ),
        (
            {"objective": [{"type": "minilm_v2", "num_relation_heads": 7}]},
            "bert",
            "objective.0.num_relation_heads: must",
        ),
    ],
)
def test_problems_name_their_key(changes, model_type, message):
    teacher = EncoderShape.of(teacher_model(model_type).config)
    lines = "\n".join(f"{key}: {text}" for key, text in student_config(**changes).problems(teacher))
    with pytest.raises(ValueError, match=message):
        raise ValueError(lines)
