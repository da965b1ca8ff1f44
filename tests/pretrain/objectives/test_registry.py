"""Decoding objectives from a configuration, and errors for those that cannot work."""

import pytest
from pydantic import TypeAdapter, ValidationError

from pretrain.objectives.registry import GeneralObjective
from tests.pretrain.tiny import shape


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
            "student with 6 layers cannot be mapped to a teacher with 4",
        ),
        (
            {"type": "minilm"},
            shape(2, 12, num_attention_heads=2),
            "num_relation_heads",
            "is required because the teacher has 4 attention heads and the student 2; legal values: 12, 6, 4, 3, 2, 1",
        ),
        ({"type": "ernie_tiny", "num_relation_heads": 5}, shape(2, 12), "num_relation_heads", "must divide .* got 5"),
        ({"type": "minilm", "teacher_layer": 9}, shape(2, 12), "teacher_layer", "the teacher has 4 layers, got 9"),
        (
            {"type": "tinybert"},
            shape(2, 12, num_attention_heads=2),
            "type",
            "both models need the same number of attention heads; the teacher has 4, got 2",
        ),
        ({"type": "pkd"}, shape(1, 12), "layer_map", "skip leaves out the last layer, and the student has only one"),
        ({"type": "pkd"}, shape(3, 12), "layer_map", "skip needs the teacher's 4 layers to be a multiple of 3"),
        ({"type": "pkd", "layer_map": "last"}, shape(6, 12), "layer_map", "with 6 layers cannot be mapped .* with 4"),
        ({"type": "pkd", "layer_map": [1, 2, 3]}, shape(2, 12), "layer_map", "must list 1 to 2 teacher layers, got 3"),
        ({"type": "pkd", "layer_map": [9]}, shape(2, 12), "layer_map", "the teacher has 4 layers, got 9"),
        ({"type": "hidden_states"}, shape(3, 12), "layer_map", "teacher's 4 layers to be a multiple of 3; list layers"),
        ({"type": "hidden_states", "layer_map": [1]}, shape(2, 12), "layer_map", "must list 2 .* got 1"),
        ({"type": "hidden_states", "layer_map": [1, 9]}, shape(2, 12), "layer_map", "the teacher has 4 layers, got 9"),
    ],
)
def test_objectives_that_cannot_work_are_errors_with_the_key(config, student, key, message):
    decoded = TypeAdapter(GeneralObjective).validate_python(config)
    problems = list(decoded.problems(shape(), student))
    assert [found for found, _ in problems] == [key]
    with pytest.raises(ValueError, match=message):
        raise ValueError(problems[0][1])


def test_unknown_keys_and_types_are_refused():
    with pytest.raises(ValidationError, match="heads"):
        TypeAdapter(GeneralObjective).validate_python({"type": "minilm_v2", "num_relation_heads": 4, "heads": 2})
    with pytest.raises(ValidationError, match="unknown type 'minilm_v3'; must be one of minilm_v2, minilm, "):
        TypeAdapter(GeneralObjective).validate_python({"type": "minilm_v3"})
    for value in ({}, "minilm_v2", {"type": 3}):
        with pytest.raises(ValidationError, match='must be an object with a "type", one of minilm_v2, minilm'):
            TypeAdapter(GeneralObjective).validate_python(value)
