"""Building a student: its initial weights, its trained parameters, and errors."""

import pytest
import torch

from pretrain.models.family import BERT_FAMILIES
from pretrain.models.shape import EncoderShape
from pretrain.models.teacher import Teacher
from pretrain.students.student import build_student
from tests.pretrain.tiny import batch, student_config, teacher_model

RELATIONS = [{"type": "minilm_v2", "num_relation_heads": 4}]


@pytest.mark.parametrize("model_type", BERT_FAMILIES)
def test_every_objective_trains_every_family(model_type):
    model = teacher_model(model_type)
    types = ({"type": "minilm_v2", "num_relation_heads": 4}, {"type": "minilm"}, {"type": "tinybert"}, {"type": "pkd"})
    student = build_student(student_config(objective=list(types)), model, seed=0)
    teacher = Teacher(model, [student.teacher_reads], "float32", "cpu")
    loss, terms = student(batch(), teacher(batch()))
    loss.backward()
    assert {"relation/query", "relation/query_key", "relation/value", "relation/value/1"} < set(terms)
    assert {"attention/2", "hidden/0", "patient/1"} < set(terms) and len(terms) == 12
    torch.testing.assert_close(sum(value for name, value in terms.items() if name != "loss"), terms["loss"])
    gradients = [parameter.grad for parameter in student.encoder.model.parameters() if parameter.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients) and len(gradients) > 10


@pytest.mark.parametrize("model_type", BERT_FAMILIES)
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


def test_the_start_is_the_same_for_the_same_seed_and_leaves_the_generator_alone():
    model = teacher_model()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (build_student(student_config(), model, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_parameters_that_no_objective_reaches_are_frozen_and_named():
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


def test_labels_and_code_of_the_teacher_are_not_the_students():
    teacher = teacher_model().config
    teacher.id2label, teacher.auto_map, teacher.problem_type = {0: "LABEL_0"}, {"AutoModel": "own.Own"}, "regression"
    assert teacher.num_labels == 1
    config = student_config().hugging_face_config(teacher)
    assert config.num_labels == 2 and config.problem_type is None and not hasattr(config, "auto_map")
    assert config.vocab_size == teacher.vocab_size


def test_dropout_is_the_configs_while_distilling_and_the_familys_when_published():
    student = build_student(student_config(dropout_prob=0.3), teacher_model(), seed=0)
    rates = {module.p for module in student.modules() if isinstance(module, torch.nn.Dropout)}
    assert rates == {0.3}
    assert student.encoder.model.config.hidden_dropout_prob == 0.1


@pytest.mark.parametrize(
    ("changes", "model_type", "message"),
    [
        (
            {"num_attention_heads": 5},
            "bert",
            r"num_attention_heads: must divide hidden_size \(12\), got 5; legal values: 12",
        ),
        ({"init": {"layers": [1]}, "hidden_size": 24}, "bert", "init.layers: must list 2 teacher layers, got 1"),
        (
            {"init": {"embeddings": "teacher", "layers": [2, 4]}, "num_attention_heads": 1},
            "bert",
            "init.layers: projection only makes heads narrower: the teacher's have width 6, the student's 12",
        ),
        ({"init": {"layers": [1, 9]}, "hidden_size": 24}, "bert", "init.layers: the teacher has 4 layers, got 9"),
        ({"init": {"layers": "uniform"}, "num_layers": 3}, "bert", "init.layers: uniform cannot choose 3 of .* 4"),
        (
            {"init": {"layers": [1, 2], "embeddings": "scratch"}},
            "bert",
            "init.layers: need projected embeddings to be projected: init.embeddings must be teacher",
        ),
        (
            {"init": {"layers": [1, 2]}, "hidden_size": 32},
            "bert",
            "init.layers: projection only makes layers narrower: the teacher's hidden_size is 24, got 32",
        ),
        ({"init": {"student": "no/such/folder"}}, "bert", "init.student: there is no folder 'no/such/folder'"),
        (
            {"init": {"student": "tests", "layers": "uniform"}},
            "bert",
            "init.student: gives all weights, so the other keys of init must be left out",
        ),
        ({"init": {"student": "tests"}}, "bert", "init.student: no model could be loaded from folder 'tests': "),
        ({"init": {"layers": [1, 2]}, "hidden_size": 24}, "albert", "init.layers: must be scratch because .* share"),
        ({"init": {"layers": [1, 2]}}, "albert", "init.layers: .* an ALBERT teacher share their weights$"),
        (
            {"init": {"layers": [1, 2]}},
            "electra",
            "^init.layers: electra's embeddings have their own width, 16, so they give .* the teacher's sizes$",
        ),
        (
            {"intermediate_size": 99, "hidden_size": 24, "init": {"layers": [1, 2]}},
            "bert",
            "projection only makes layers narrower: the teacher's intermediate_size is 32, got 99",
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
