"""Relations of the pairs and layers in the MiniLM papers."""

import pytest
import torch
from pydantic import ValidationError

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


def test_any_relations_with_weights_of_their_own():
    relations = {"value-query": 0.5, "key-key": 3.0}
    objective = MiniLMv2Config(type="minilm_v2", num_relation_heads=4, relations=relations, weight=2.0)
    objective = objective.build(shape(), shape(2, 12))
    teacher, student = features(4, 24, 0), features(2, 12, 1)
    terms = objective(teacher, student, feature_batch())
    assert list(terms) == ["relation/value_query", "relation/key"]
    pairs = (teacher.value[4], teacher.query[4]), (student.value[2], student.query[2])
    assert terms["relation/value_query"] == relation_loss(*pairs, feature_batch()["attention_mask"].bool(), 4)
    expected = 2 * (0.5 * terms["relation/value_query"] + 3 * terms["relation/key"])
    torch.testing.assert_close(objective.total(terms), expected)


@pytest.mark.parametrize("bad", [{}, {"query": 1.0}, {"query-key": 0.0}])
def test_relations_that_do_not_exist_are_refused(bad):
    with pytest.raises(ValidationError, match=r"relations"):
        MiniLMv2Config(type="minilm_v2", num_relation_heads=4, relations=bad)


def test_relations_between_rows_compare_the_tokens_of_a_position():
    """PaddleNLP's sample-sample relations, one position and one head at a time, over the rows that are real there."""
    config = MiniLMv2Config(type="minilm_v2", num_relation_heads=4, between="rows", relations={"query-query": 1.0})
    teacher, student, batch = features(4, 24, 0), features(2, 12, 1, requires_grad=True), feature_batch()
    (found,) = config.build(shape(), shape(2, 12))(teacher, student, batch).values()
    divergences = []
    for position in range(9):
        real, heads = batch["attention_mask"][:, position].bool(), []
        for head in range(4):
            logs = []
            for query, width in ((teacher.query[4], 6), (student.query[2], 3)):
                a = query[real, position, head * width : (head + 1) * width].double()
                logs.append((a @ a.T / width**0.5).log_softmax(-1))
            heads.append((logs[0].exp() * (logs[0] - logs[1])).sum(-1).mean())
        divergences.append(torch.stack(heads).mean())
    slow = torch.stack(divergences).mean()
    torch.testing.assert_close(found.double(), slow, rtol=1e-5, atol=1e-6)
    gradients = [torch.autograd.grad(loss, student.query[2])[0] for loss in (found, slow)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


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


def test_relations_within_documents_are_those_of_each_document():
    objective = MiniLMv2Config(type="minilm_v2", num_relation_heads=4).build(shape(), shape(2, 12))
    teacher, student, batch = features(4, 24, 0), features(2, 12, 1), feature_batch()
    mask = batch["attention_mask"].bool()
    documents = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2, 2]).expand(3, -1).masked_fill(~mask, -1)
    terms = objective(teacher, student, batch | {"document_ids": documents})
    pair = (teacher.key[4],) * 2, (student.key[2],) * 2
    assert terms["relation/key"] == relation_loss(*pair, mask, 4, documents=documents)
    assert terms["relation/key"] != objective(teacher, student, batch)["relation/key"]
