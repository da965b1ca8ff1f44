"""What an elastic student cannot be, each refused with what would work."""

from typing import Any

import pytest

from pretrain.models.shape import EncoderShape
from pretrain.students.config import StudentConfig
from pretrain.students.student import build_student
from tests.pretrain.tiny import shape, student_config, teacher_model

TEACHER = EncoderShape.of(teacher_model().config)


def problems(config: StudentConfig, teacher: EncoderShape | None = TEACHER) -> list[str]:
    return [f"{key}: {message}" for key, message in config.problems(teacher)]


def refusal(elastic: dict[str, Any], **changes: Any) -> list[str]:
    return problems(student_config(elastic=elastic, **changes))


@pytest.mark.parametrize(
    "elastic", [{}, {"depths": [1]}, {"feed_forward": [8, 20], "sample": "sandwich"}, {"depths": [1, 2]}]
)
def test_sizes_that_nest_are_taken(elastic):
    assert refusal(elastic) == []


@pytest.mark.parametrize(
    ("elastic", "changes", "message"),
    [
        (
            {"depths": [1, 3]},
            {},
            "elastic.depths: a sub-network is a part of the student, whose num_layers is 2, got 3; leave it out, or "
            "increase num_layers",
        ),
        (
            {"feed_forward": [21]},
            {},
            "elastic.feed_forward: a sub-network is a part of the student, whose intermediate_size is 20, got 21",
        ),
        (
            {"depths": [1]},
            {"objective": [{"type": "minilm"}, {"type": "hidden_states", "layer_map": [2, 4]}]},
            "elastic.depths: objective.1 (hidden_states) cannot serve 1 layers: layer_map: must list 1 teacher layers, "
            "one for each student layer, got 2; or leave this depth out",
        ),
        (
            {"depths": [1]},
            {"objective": [{"type": "pkd"}]},
            "elastic.depths: objective.0 (pkd) cannot serve 1 layers: layer_map: skip leaves out the last layer, and",
        ),
        (
            {"depths": [3]},
            {"objective": [{"type": "tinybert"}], "num_layers": 4},
            "elastic.depths: objective.0 (tinybert) cannot serve 3 layers: layer_map: uniform needs the teacher's 4 "
            "layers to be a multiple of 3; list layers instead",
        ),
        (
            {"feed_forward": [8]},
            {"architecture": {"model_type": "gpt2"}},
            "elastic.feed_forward: no weight of a gpt2 model follows its intermediate_size; leave it out",
        ),
    ],
)
def test_what_a_size_cannot_be_is_refused(elastic, changes, message):
    found = refusal(elastic, **changes)
    assert len(found) == 1 and found[0].startswith(message)


@pytest.mark.parametrize(
    ("elastic", "message"),
    [
        ({"heads": [2]}, "fewer heads of the same width are no ordinary model"),
        ({"heads": {"query": 2}}, "use depths and feed_forward, or a student of its own"),
        ({"depths": [1, 1]}, "1 is listed more than once"),
        ({"feed_forward": [8, 4, 8]}, "8 is listed more than once"),
        ({"depths": [0]}, "greater than 0"),
        ({"sample": "largest"}, "Input should be 'all' or 'sandwich'"),
        ({"widths": [8]}, "Extra inputs are not permitted"),
    ],
)
def test_a_configuration_that_says_something_else_is_refused(elastic, message):
    with pytest.raises(ValueError, match=message):
        student_config(elastic=elastic)


def test_a_student_without_a_teacher_is_checked_as_well():
    alone = {"architecture": {"model_type": "bert"}, "init": {"embeddings": "scratch"}, "objective": [{"type": "mlm"}]}
    assert problems(student_config(elastic={"depths": [1], "feed_forward": [8]}, **alone), None) == []
    assert problems(student_config(elastic={"depths": [4]}, **alone), None) == [
        "elastic.depths: a sub-network is a part of the student, whose num_layers is 2, got 4; leave it out, or "
        "increase num_layers"
    ]


def test_a_published_student_of_another_shape_cannot_be_made_elastic(tmp_path):
    """The whole has the shape; that a smaller size would fit does not help."""
    build_student(student_config(intermediate_size=8), teacher_model(), 1).published.save_pretrained(tmp_path)
    found = refusal({"feed_forward": [8]}, init={"student": str(tmp_path)})
    assert any(line.startswith("init.student: ") and "has intermediate_size 8, got 20" in line for line in found)


def test_layers_with_windows_keep_them_where_objectives_are_checked():
    """Of two kept layers of four the first has a window, so attention scores cannot be compared there."""
    kinds = ["full_attention", "sliding_attention", "full_attention", "full_attention"]
    architecture = {"model_type": "modernbert", "options": {"layer_types": kinds}}
    sizes = {"num_layers": 4, "hidden_size": 24, "architecture": architecture, "objective": [{"type": "minilm"}]}
    assert problems(student_config(elastic={"depths": [2]}, **sizes), shape()) == []
    found = problems(student_config(elastic={"depths": [2]}, **sizes | {"objective": [{"type": "tinybert"}]}), shape())
    assert [line.partition(":")[0] for line in found] == ["objective.0.type", "elastic.depths"]
    assert "student's layers [1], whose tokens attend only to those" in found[1]


def test_what_serves_one_size_alone_is_refused():
    assert refusal({"depths": [1]}, quantization={"weights": 8}) == [
        "quantization: rounds one size alone; leave it out, and train a published size with it (init.student)"
    ]
    alone = {"architecture": {"model_type": "bert"}, "init": {"embeddings": "scratch"}}
    found = problems(student_config(elastic={"depths": [1]}, objective=[{"type": "replaced_tokens"}], **alone), None)
    assert found == [
        "elastic: replaced_tokens trains a generator for one size; train the sizes as students of their own"
    ]
