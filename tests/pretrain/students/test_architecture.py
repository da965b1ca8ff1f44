"""A student without a teacher is built from its architecture and the corpus's tokenizer."""

import pytest

from pretrain.models.encoder import EncoderShape
from pretrain.models.family import FAMILIES
from pretrain.models.teacher import no_teacher
from pretrain.students.config import ArchitectureConfig
from pretrain.students.student import build_student
from tests.pretrain.tiny import batch, shape, student_config

ALONE = {"architecture": {"model_type": "bert"}, "init": {"embeddings": "scratch"}, "objective": [{"type": "mlm"}]}


@pytest.mark.parametrize("model_type", FAMILIES)
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
        ({}, shape(), "architecture: is the teacher's in a run with one: leave it out"),
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
