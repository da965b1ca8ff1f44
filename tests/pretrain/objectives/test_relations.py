"""Relations of the pairs and layers in the MiniLM papers."""

import pytest
import torch

from pretrain.objectives.relation_loss import relation_loss
from pretrain.objectives.relations import MiniLMConfig, MiniLMv2Config, published_teacher_layer
from tests.pretrain.tiny import feature_batch, features, shape


def test_minilm_v2_sums_three_relations_of_the_layers_it_names():
    config = MiniLMv2Config(type="minilm_v2", num_relation_heads=4, teacher_layer=3, weight=2.0)
    objective = config.build(shape(), shape(2, 12))
    assert objective.teacher_reads.projections == {3}
    assert objective.student_reads.projections == {2}
    teacher, student = features(4, 24, 0), features(2, 12, 1)
    terms = objective(teacher, student, feature_batch())
    assert list(terms) == ["relation/query", "relation/key", "relation/value"]
    torch.testing.assert_close(objective.total(terms), 2 * sum(terms.values()))
    student.key = dict.fromkeys(student.key, student.value[2])
    changed = objective(teacher, student, feature_batch())
    assert changed["relation/query"] == terms["relation/query"]
    assert changed["relation/key"] != terms["relation/key"]


@pytest.mark.parametrize("name", ["minilm", "ernie_tiny"])
@pytest.mark.parametrize(("wanted", "heads"), [(None, 4), (3, 3)])
def test_minilm_sums_attention_and_value_relations_of_the_last_layers(name, wanted, heads):
    objective = MiniLMConfig(type=name, num_relation_heads=wanted).build(shape(), shape(2, 12))
    assert (objective.teacher_reads.projections, objective.student_reads.projections) == ({4}, {2})
    teacher, student, batch = features(4, 24, 0), features(2, 12, 1), feature_batch()
    terms = objective(teacher, student, batch)
    assert list(terms) == ["relation/query_key", "relation/value"]
    mask = batch["attention_mask"].bool()
    pair = (teacher.query[4], teacher.key[4]), (student.query[2], student.key[2])
    assert terms["relation/query_key"] == relation_loss(*pair, mask, heads)
    pair = (teacher.value[4], teacher.value[4]), (student.value[2], student.value[2])
    assert terms["relation/value"] == relation_loss(*pair, mask, heads)


@pytest.mark.parametrize(
    ("model_type", "layers", "expected"),
    [("bert", 12, 12), ("bert", 24, 21), ("xlm-roberta", 24, 19), ("roberta", 24, 19)],
)
def test_the_papers_teacher_layer(model_type, layers, expected):
    assert published_teacher_layer(shape(layers, model_type=model_type)) == expected
