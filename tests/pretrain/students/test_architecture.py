"""Students of an architecture of their own: without a teacher, and of another family than their teacher's."""

import pytest
import torch

from pretrain.models.encoder import Encoder, Reads
from pretrain.models.family import BERT_FAMILIES
from pretrain.models.shape import EncoderShape
from pretrain.models.teacher import Teacher, no_teacher
from pretrain.students.config import ArchitectureConfig
from pretrain.students.student import build_student
from tests.pretrain.tiny import batch, shape, student_config, teacher_model

ALONE = {"architecture": {"model_type": "bert"}, "init": {"embeddings": "scratch"}, "objective": [{"type": "mlm"}]}


@pytest.mark.parametrize("model_type", BERT_FAMILIES)
def test_every_family_learns_alone(model_type):
    architecture = ArchitectureConfig(model_type=model_type, max_row_tokens=40)
    base = architecture.build(vocab_size=50, pad_token_id=1)
    student = build_student(student_config(**ALONE), None, seed=0, base=base)
    shape = EncoderShape.of(student.encoder.model.config)
    assert (shape.model_type, shape.vocab_size, shape.max_row_tokens) == (model_type, 50, 40)
    assert (shape.num_layers, shape.hidden_size, base.pad_token_id) == (2, 12, 1)
    assert not any("word_embeddings" in name or "layer" in name for name in student.freeze_unreached(no_teacher))
    labelled = batch() | {"labels": batch()["input_ids"]}
    loss, terms = student(labelled, no_teacher(labelled))
    loss.backward()
    assert set(terms) == {"loss", "mlm"}
    assert student.encoder.model.get_input_embeddings().weight.grad.any()


def test_the_start_is_the_same_for_the_same_seed():
    base = ArchitectureConfig(model_type="bert").build(50, 0)
    first, again, other = (build_student(student_config(**ALONE), None, seed, base=base) for seed in (1, 1, 2))
    words = [student.head.weight for student in (first, again, other)]
    assert (words[0] == words[1]).all() and (words[0] != words[2]).any()


@pytest.mark.parametrize(
    ("changes", "teacher", "message"),
    [
        ({"architecture": None}, None, "architecture: is required without a teacher, for example"),
        ({"init": {}}, None, 'init: must be {"embeddings": "scratch", "layers": "scratch"}: there is no teacher'),
        ({"init": {"embeddings": "scratch", "layers": [1, 2]}}, None, 'init: must be {"embeddings": "scratch"'),
        (
            {"objective": [{"type": "mlm"}, {"type": "hidden_states"}]},
            None,
            "objective.1.type: hidden_states needs a teacher; mlm works without one",
        ),
    ],
)
def test_what_a_teacher_decides_and_what_it_does_not(changes, teacher, message):
    (problem,) = [f"{key}: {text}" for key, text in student_config(**ALONE | changes).problems(teacher)]
    assert problem.startswith(message)


POST_NORM = [name for name in BERT_FAMILIES if name != "albert"]  # whose layers have the same weights
SIZES = {"num_layers": 4, "hidden_size": 24, "num_attention_heads": 4, "intermediate_size": 32}


def other_family(model_type, **changes):
    return student_config(**SIZES | {"architecture": {"model_type": model_type, "max_row_tokens": 32}} | changes)


@pytest.mark.parametrize("student_type", POST_NORM)
@pytest.mark.parametrize("teacher_type", POST_NORM)
def test_a_student_of_another_family_computes_what_its_teacher_does(teacher_type, student_type):
    """With all layers and the teacher's width: positions and token types are numbered otherwise, and mean the same."""
    changes = {"embedding_size": 24} if teacher_type == "electra" else {}
    model = teacher_model(teacher_type, pad_token_id=1, **changes)
    config = other_family(student_type, init={"layers": [1, 2, 3, 4]})
    given = EncoderShape.of(model.config)
    if student_type == "electra":  # its embeddings have a width of their own
        assert teacher_type == "electra" or [key for key, _ in config.problems(given)] == ["init.layers"]
        config = other_family(student_type)
    student = build_student(config, model, seed=0)
    own = student.encoder.shape
    assert (own.model_type, own.max_row_tokens, own.vocab_size) == (student_type, 32, 50)
    assert own == config.shape(given) and student.encoder.model.config.pad_token_id == 1
    inputs, reads = batch(), Reads(hidden_states=frozenset({0, 4}))
    with torch.no_grad():
        found = student.eval().encoder(inputs, reads).hidden_states
        wanted = Encoder(model, reads)(inputs).hidden_states
    real = inputs["attention_mask"].bool()
    if student_type != "electra":
        torch.testing.assert_close(found[0][real], wanted[0][real])
        torch.testing.assert_close(found[4][real], wanted[4][real])
    loss, _ = student.train()(inputs, Teacher(model, [student.teacher_reads], "float32", "cpu")(inputs))
    loss.backward()


def test_an_albert_student_takes_no_layers_from_another_family():
    problems = list(other_family("albert", init={"layers": "uniform"}).problems(shape()))
    message = "must be scratch because the layers of an ALBERT student share their weights"
    assert ("init.layers", message) in problems
    model = teacher_model()
    student = build_student(other_family("albert"), model, seed=0)
    inputs = batch()
    loss, _ = student(inputs, Teacher(model, [student.teacher_reads], "float32", "cpu")(inputs))
    assert loss.isfinite()


def test_a_wider_teachers_layers_are_projected_across_families():
    model = teacher_model("xlm-roberta", pad_token_id=1)
    narrow = other_family("bert", hidden_size=12, intermediate_size=20, num_layers=2, init={"layers": "uniform"})
    assert list(narrow.problems(EncoderShape.of(model.config))) == []
    student, same = (
        build_student(one, model, 0, batch()) for one in (narrow, narrow.model_copy(update={"architecture": None}))
    )
    words, others = (one.encoder.model.embeddings.word_embeddings.weight for one in (student, same))
    torch.testing.assert_close(words, others)
    first, other = (one.encoder.model.encoder.layer[0].output.dense.weight for one in (student, same))
    torch.testing.assert_close(first, other)
