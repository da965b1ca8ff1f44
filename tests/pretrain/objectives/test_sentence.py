"""The objective on text vectors equals a slow reference in float64, for every pooling and any number of ranks."""

import os
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from pretrain.models.pooling import pool
from pretrain.objectives.sentence import SentenceConfig, similarity_error
from tests.pretrain.tiny import feature_batch, features, shape, spawn


def vector(states, real, pooling):
    """One text's vector from its real states, by the definition of each pooling."""
    own = states[real].double()
    return {"first": own[0], "last": own[-1], "mean": own.mean(0)}[pooling]


def cosine(a, b):
    return a @ b / (a.norm() * b.norm())


@pytest.mark.parametrize("width", [12, 24])
@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
def test_terms_and_gradients_equal_the_reference(pooling, width):
    config = SentenceConfig(type="sentence", pooling=pooling, similarities=3.0, dims=[6, 12], weight=0.5)
    assert list(config.problems(shape(), shape(2, width))) == []
    objective = config.build(shape(), shape(2, width))
    teacher, student, batch = features(4, 24, 0), features(2, width, 1, requires_grad=True), feature_batch()
    real = batch["attention_mask"].bool()
    terms = objective(teacher, student, batch)
    map_back = objective.projection.double()
    output = [map_back(vector(student.hidden_states[2][row], real[row], pooling)) for row in range(3)]
    target = [vector(teacher.hidden_states[4][row], real[row], pooling) for row in range(3)]
    cosines = [cosine(a[:dim], b[:dim]) for a, b in zip(output, target, strict=True) for dim in (24, 6, 12)]
    errors = [(cosine(output[i], output[j]) - cosine(target[i], target[j])) ** 2 for i in range(3) for j in range(3)]
    slow = {"sentence/cosine": 1 - torch.stack(cosines).mean(), "sentence/similarities": torch.stack(errors).mean()}
    assert list(terms) == list(slow)
    for name, value in terms.items():
        torch.testing.assert_close(value.double(), slow[name], rtol=1e-5, atol=1e-6)
    states = student.hidden_states[2]
    totals = objective.total(terms), 0.5 * (slow["sentence/cosine"] + 3 * slow["sentence/similarities"])
    torch.testing.assert_close(totals[0].double(), totals[1])
    fast, expected = (torch.autograd.grad(total, states, retain_graph=True)[0] for total in totals)
    torch.testing.assert_close(fast, expected, rtol=1e-4, atol=1e-6)
    assert (fast[~real] == 0).all()


def test_a_student_with_the_teachers_vectors_has_no_loss():
    objective = SentenceConfig(type="sentence", pooling="mean", similarities=1.0).build(shape(4, 12), shape(2, 12))
    assert not list(objective.parameters()), "equal widths need no map"
    teacher, student = features(4, 12, 0), features(2, 12, 1)
    student.hidden_states[2] = 7 * teacher.hidden_states[4]
    assert all(value.abs() < 1e-6 for value in objective(teacher, student, feature_batch()).values())


def test_dimensions_beyond_the_teachers_are_refused():
    config = SentenceConfig(type="sentence", pooling="mean", dims=[8, 24])
    assert list(config.problems(shape(), shape(2, 12))) == [
        ("dims", "must be less than the teacher's width 24, got 24")
    ]


def test_low_precision_states_are_averaged_in_float32():
    states = torch.full((1, 300, 4), 1.01, dtype=torch.bfloat16)
    pooled = pool(states, torch.ones(1, 300, dtype=torch.bool), "mean")
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, states[:, 0].float())


def draw():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(8, 6, generator=generator), torch.randn(8, 6, generator=generator)


def similarities_on_rank(rank, folder):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2, timeout=timedelta(minutes=2))
    target, output = (one[rank::2] for one in draw())
    output = output.clone().requires_grad_()
    error = similarity_error(target, output)
    error.backward()
    torch.save((error.detach(), output.grad), folder / f"found_{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.job
def test_two_ranks_of_four_texts_equal_one_of_eight(tmp_path):
    spawn(similarities_on_rank, (tmp_path,))
    found = [torch.load(tmp_path / f"found_{rank}.pt", weights_only=True) for rank in range(2)]
    target, output = draw()
    output.requires_grad_()
    error = similarity_error(target, output)
    error.backward()
    torch.testing.assert_close((found[0][0] + found[1][0]) / 2, error.detach())
    together = torch.stack([found[0][1], found[1][1]], 1).flatten(0, 1) / 2  # ranks' gradients are averaged
    torch.testing.assert_close(together, output.grad)
