"""An elastic student: one set of weights, the mean loss of its sizes, and the plain student where there is one size."""

from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForMaskedLM

from pretrain.elastic.config import ElasticConfig
from pretrain.elastic.size import Size
from pretrain.elastic.slices import cut_model
from pretrain.models.encoder import Encoder
from pretrain.models.shape import EncoderShape
from pretrain.models.teacher import Teacher
from pretrain.models.vocabulary_head import VocabularyHead
from pretrain.students.config import StudentConfig
from pretrain.students.student import Student, build_student
from tests.pretrain.tiny import batch, student_config, teacher_model, train

ELASTIC: dict[str, Any] = {"depths": [1, 2], "feed_forward": [8, 20]}
EVERY: list[dict[str, Any]] = [
    {"type": "minilm_v2", "num_relation_heads": 4},
    {"type": "minilm"},
    {"type": "tinybert"},
    {"type": "hidden_states"},
    {"type": "sentence", "pooling": "mean"},
    {"type": "mlm"},
    {"type": "distilbert"},
]


def elastic(**changes: Any) -> StudentConfig:
    return student_config(**{"elastic": ELASTIC} | changes)


def build(config: StudentConfig) -> tuple[Student, Teacher]:
    head = VocabularyHead(teacher_model(auto_class=AutoModelForMaskedLM)) if config.needs_head else None
    model = head.model.base_model if head else teacher_model()
    assert list(config.problems(EncoderShape.of(model.config))) == []
    student = build_student(config, model, 1, teacher_head=head)
    return student, Teacher(model, [student.teacher_reads], "float32", "cpu", head)


def given() -> dict[str, Tensor]:
    labels = batch()["input_ids"].masked_fill(batch()["input_ids"] % 4 > 0, -100)
    return batch() | {"labels": labels}


def gradients(student: Student) -> dict[str, Tensor]:
    found = {name: one.grad.clone() for name, one in student.named_parameters() if one.grad is not None}
    student.zero_grad()
    return found


def test_every_size_trains_the_head_that_is_published():
    """ALBERT's for sentence order, whose depths are given heads of their own elsewhere."""
    architecture = {"model_type": "albert"}
    objective = [{"type": "mlm"}, {"type": "sentence_order"}]
    config = elastic(objective=objective, architecture=architecture, init={"embeddings": "scratch"})
    student = build_student(config, None, 1, base=config.architecture.build(50, 0, None))
    heads = [objectives[1].classifier for _, objectives in student.networks.values()]
    assert len(heads) == 4 and all(one is student.published.sop_classifier for one in heads)


def test_every_objective_trains_every_size():
    student, teacher = build(elastic(objective=EVERY))
    assert [str(size) for size in student.inner.sizes] == ["2x20", "2x8", "1x20", "1x8"]
    assert student.freeze_unreached(teacher, given()) == []
    loss, terms = student(given(), teacher(given()))
    loss.backward()
    assert all(one.grad.isfinite().all() and one.grad.abs().sum() > 0 for one in student.parameters())
    each = [terms[f"loss/{size}"] for size in student.inner.sizes]
    torch.testing.assert_close(loss, torch.stack(each).mean())
    assert len({float(one) for one in each}) == 4 and terms["loss"] == loss and "hidden/2" in terms


def test_the_gradient_is_the_mean_of_those_of_separate_models():
    """Each a model of its own, cut out; their gradients are put back where they were cut from."""
    student, teacher = build(elastic())
    inputs = given()
    features = teacher(inputs)
    student(inputs, features)[0].backward()
    found = gradients(student)
    wanted = {name: torch.zeros_like(one) for name, one in found.items()}
    for size in student.inner.sizes:
        network, objectives = student.networks["" if size == Size(2, 20) else str(size)]
        model = cut_model(student.encoder.model, size).eval()  # without dropout, as the student
        alone = Encoder(model, network.reads)
        student.loss_of(alone, objectives, inputs, features)[0].backward()
        for name, one in gradients(student).items():
            wanted[name] += one / 4
        layers = {2: (0, 1), 1: (1,)}[size.num_layers]
        for name, parameter in model.named_parameters():
            if parameter.grad is None:
                continue
            parts = name.split(".")
            if parts[:2] == ["encoder", "layer"]:
                parts[2] = str(layers[int(parts[2])])
            target = wanted["encoder.model." + ".".join(parts)]
            target[tuple(slice(width) for width in parameter.shape)] += parameter.grad / 4
    assert found.keys() == wanted.keys()
    for name, one in found.items():
        torch.testing.assert_close(
            one, wanted[name], rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_one_size_alone_trains_as_the_plain_student_bit_for_bit(tmp_path):
    plain = train(tmp_path / "plain", 4)["small"]
    same = train(tmp_path / "same", 4, [student_config(elastic={"depths": [2], "feed_forward": [20]})])["small"]
    assert plain.keys() == same.keys() and all(torch.equal(plain[name], same[name]) for name in plain)
    other = train(tmp_path / "other", 4, [elastic()])["small"]
    assert not torch.equal(plain["encoder.model.encoder.layer.0.output.dense.weight"],
                           other["encoder.model.encoder.layer.0.output.dense.weight"])  # fmt: skip


SANDWICH = {"depths": [1], "feed_forward": [4, 8, 12], "sample": "sandwich"}


def test_a_sandwich_is_the_largest_the_smallest_and_one_drawn_by_the_step():
    config = ElasticConfig(depths=[1, 2, 3], feed_forward=[8, 16], sample="sandwich")
    sizes = config.sizes(Size(3, 20))
    assert len(sizes) == 9 and (sizes[0], sizes[-1]) == (Size(3, 20), Size(1, 8))
    drawn = [config.drawn(sizes, 5, step) for step in range(200)]
    assert {(len(one), one[0], one[-1]) for one in drawn} == {(3, sizes[0], sizes[-1])}
    assert {one[1] for one in drawn} == set(sizes[1:-1])
    assert drawn == [config.drawn(sizes, 5, step) for step in range(200)]
    assert drawn != [config.drawn(sizes, 6, step) for step in range(200)]
    assert config.drawn(sizes[:3], 5, 0) == sizes[:3]


def test_a_resumed_run_draws_the_same_sizes_and_ends_bit_for_bit_the_same(tmp_path):
    students = [elastic(elastic=SANDWICH)]
    whole = train(tmp_path / "whole", 6, students, save_every_steps=3)["small"]
    train(tmp_path / "parts", 3, students, save_every_steps=3)
    parts = train(tmp_path / "parts", 6, students, save_every_steps=3)["small"]
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert "inner.objectives.1.1.projections.0.weight" in whole
