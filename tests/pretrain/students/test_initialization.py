"""Initial weights of a student."""

import pytest
import torch

from pretrain.models.encoder import Encoder, Reads
from pretrain.students.initialization import narrow_basis, principal_components, random_rotation
from pretrain.students.student import build_student
from tests.pretrain.tiny import batch, student_config, teacher_model


def test_narrower_embeddings_keep_the_teachers_geometry():
    model = teacher_model()
    with torch.no_grad():  # word vectors that vary in 10 directions: 12 lose nothing
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


def test_principal_components_are_those_of_the_singular_value_decomposition():
    vectors = torch.randn(40, 6, dtype=torch.float64) * torch.tensor([5.0, 4, 3, 2, 1, 0.1], dtype=torch.float64)
    basis = principal_components(vectors, 3)
    _, _, directions = torch.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    torch.testing.assert_close((basis.T @ directions[:3].T).abs(), torch.eye(3, dtype=torch.float64), atol=1e-6, rtol=0)
    assert (basis.gather(0, basis.abs().argmax(0, keepdim=True)) > 0).all()
    with pytest.raises(ValueError, match="embeddings of width 6 do not have 7 principal components"):
        principal_components(vectors, 7)
    rotation = random_rotation(4, 9)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(4))


@pytest.mark.parametrize(("layers", "numbers"), [("uniform", [2, 4]), ("last", [3, 4])])
def test_layers_are_taken_by_a_map(layers, numbers):
    model = teacher_model()
    config = student_config(hidden_size=24, intermediate_size=32, init={"layers": layers})
    student = build_student(config, model, seed=0).encoder.model
    for index, number in enumerate(numbers):
        expected = model.encoder.layer[number - 1].state_dict()
        assert all(torch.equal(student.encoder.layer[index].state_dict()[name], expected[name]) for name in expected)


def test_a_published_student_gives_all_its_weights(tmp_path):
    first = build_student(student_config(), teacher_model(), seed=3).encoder.model
    first.save_pretrained(tmp_path / "student")
    config = student_config(init={"student": str(tmp_path / "student")})
    again = build_student(config, teacher_model(), seed=4).encoder.model
    assert all(torch.equal(tensor, first.state_dict()[name]) for name, tensor in again.state_dict().items())
    wider = student_config(hidden_size=24, init={"student": str(tmp_path / "student")})
    found = [message for key, message in wider.problems(Encoder(teacher_model(), Reads()).shape)]
    assert found == [f"{str(tmp_path / 'student')!r} has hidden_size 12, got 24"]


@pytest.mark.parametrize("width", [12, 24, 32])
def test_projections_of_a_published_student_give_the_teachers_embeddings_back(tmp_path, width):
    build_student(student_config(hidden_size=width), teacher_model(), seed=3).encoder.model.save_pretrained(tmp_path)
    config = student_config(hidden_size=width, init={"student": str(tmp_path)})
    student, words = build_student(config, teacher_model(), seed=4), teacher_model().embeddings.word_embeddings.weight
    small = student.encoder.model.embeddings.word_embeddings.weight
    for projection in student.objectives[1].projections:
        error = projection(small) - words
        torch.testing.assert_close(small.T @ error, torch.zeros(width, 24), atol=1e-5, rtol=0)  # no map is nearer
        assert not projection.bias.any()
        if width == 24:
            assert torch.equal(projection.weight, torch.eye(24))


@pytest.mark.parametrize(
    ("model_type", "change", "found", "wanted"),
    [
        ("bert", {"max_position_embeddings": 64}, "max_row_tokens 64", "40"),
        ("bert", {"type_vocab_size": 1}, "num_token_types 1", "2"),
        ("bert", {"vocab_size": 60}, "vocab_size 60", "50"),
        ("electra", {"embedding_size": 8}, "embedding_size 8", "16"),
    ],
)
def test_a_published_student_of_another_teachers_sizes_is_refused(tmp_path, model_type, change, found, wanted):
    build_student(student_config(), teacher_model(model_type, **change), seed=0).encoder.model.save_pretrained(tmp_path)
    config = student_config(init={"student": str(tmp_path)})
    problems = list(config.problems(Encoder(teacher_model(model_type), Reads()).shape))
    assert problems == [("init.student", f"{str(tmp_path)!r} has {found}, this run {wanted}")]


@pytest.mark.parametrize("model_type", ["electra", "albert"])
def test_factorised_embeddings_are_taken_with_the_layer_after_them(model_type):
    model, every = teacher_model(model_type), Reads(hidden_states=frozenset({0}))
    student = build_student(student_config(hidden_size=24), model, seed=3)
    made = [Encoder(one, every)(batch()).hidden_states[0] for one in (model, student.encoder.model.eval())]
    assert torch.equal(*made)
    assert torch.equal(student.objectives[1].projections[0].weight, torch.eye(24))
    narrower = build_student(student_config(), model, seed=3)
    assert narrower.objectives[1].projections[0].bias.any()  # at random: its hidden width has no map


def low_rank_teacher():
    """A teacher of width 24 whose vectors lie in 12 directions, which its norms keep: 12 columns lose nothing."""
    model = teacher_model()
    halves = torch.eye(12).repeat(2, 1) / 2**0.5  # [24, 12]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "LayerNorm.weight" in name or (parameter.dim() == 1 and parameter.shape[0] == 24 and "self" not in name):
                parameter.copy_(parameter.view(2, 12).mean(0).repeat(2))  # equal in both halves
            elif "embeddings.weight" in name:
                parameter.copy_(torch.randn(len(parameter), 12) @ halves.T)
            elif "output.dense.weight" in name:
                parameter.copy_(halves @ halves.T @ parameter)
    return model


@torch.no_grad()
def test_projected_layers_are_the_teachers_where_nothing_is_lost():
    """Its vectors need 12 directions, its heads 3 of 6: built so that cutting at singular values is exact."""
    model = low_rank_teacher()
    for layer in model.encoder.layer:
        for name in ("query", "value"):
            weight = getattr(layer.attention.self, name).weight.view(4, 6, 24)
            weight[:, 3:] = 0
            getattr(layer.attention.self, name).bias.view(4, 6)[:, 3:] = 0
    config = student_config(num_layers=4, intermediate_size=32, init={"layers": "uniform"})
    student = build_student(config, model, seed=0, sample=batch()).encoder.model.eval()
    inputs = batch()
    real = inputs["attention_mask"].bool()
    every = Reads(hidden_states=frozenset(range(5)))
    of_teacher, of_student = Encoder(model, every)(inputs).hidden_states, Encoder(student, every)(inputs).hidden_states
    basis = narrow_basis(model.embeddings.word_embeddings.weight, 12)
    for layer in range(5):
        torch.testing.assert_close(of_student[layer][real], of_teacher[layer][real] @ basis, rtol=1e-2, atol=1e-2)


@torch.no_grad()
def test_the_heads_that_add_most_are_kept():
    model = low_rank_teacher()
    for layer in model.encoder.layer:
        layer.attention.self.value.weight.view(4, 6, 24)[[0, 2]] *= 1e-4
        layer.attention.self.value.bias.view(4, 6)[[0, 2]] *= 1e-4
    config = student_config(num_layers=4, num_attention_heads=2, intermediate_size=32, init={"layers": "uniform"})
    student = build_student(config, model, seed=0, sample=batch()).encoder.model.eval()
    every = Reads(hidden_states=frozenset({4}))
    target = Encoder(model, every)(batch()).hidden_states[4] @ narrow_basis(model.embeddings.word_embeddings.weight, 12)
    real = batch()["attention_mask"].bool()
    torch.testing.assert_close(Encoder(student, every)(batch()).hidden_states[4][real], target[real], rtol=0, atol=0.02)


def test_the_mean_of_the_coordinates_goes_over_to_the_mean():
    vectors = torch.randn(50, 24, dtype=torch.float64)
    basis = narrow_basis(vectors, 12)
    torch.testing.assert_close(basis.T @ basis, torch.eye(12, dtype=torch.float64))
    torch.testing.assert_close((vectors @ basis).mean(1) * 12**0.5, vectors.mean(1) * 24**0.5)
