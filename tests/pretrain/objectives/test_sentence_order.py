"""Sentence order against a reference in float64, and where its head is published."""

import pytest
import torch
from torch.nn.functional import linear

from pretrain.models.encoder import Features
from pretrain.models.teacher import no_teacher
from pretrain.objectives.sentence_order import SentenceOrderConfig
from pretrain.students.config import ArchitectureConfig
from pretrain.students.student import build_student
from tests.pretrain.tiny import VOCAB, batch, shape, student_config

LABELS = torch.tensor([1, -100, 0, 0])


def test_loss_and_gradient_equal_the_reference_and_rows_of_one_text_count_nothing():
    torch.manual_seed(0)
    objective = SentenceOrderConfig(type="sentence_order", weight=0.5).build(shape(), shape(2, 12))
    states = torch.randn(4, 9, 12, requires_grad=True)
    terms = objective(Features(), Features({2: states}), {"order_labels": LABELS})
    dense, classifier = objective.pooler[0], objective.classifier
    slow = []
    for row in (0, 2, 3):
        pooled = torch.tanh(linear(states[row, 0].double(), dense.weight.double(), dense.bias.double()))
        logits = linear(pooled, classifier.weight.double(), classifier.bias.double())
        slow.append((-torch.log_softmax(logits, 0)[LABELS[row]], logits.argmax() == LABELS[row]))
    losses, right = (torch.stack(column).double().mean() for column in zip(*slow, strict=True))
    assert list(terms) == ["sentence_order", "sentence_order/asked", "sentence_order/right"]
    torch.testing.assert_close(terms["sentence_order"].double(), losses, rtol=1e-5, atol=1e-6)
    assert terms["sentence_order/asked"] == 3 / 4
    assert terms["sentence_order/right"].item() == pytest.approx(right.item() * 3 / 4)
    torch.testing.assert_close(objective.total(terms), 0.5 * terms["sentence_order"])
    (fast,), (exact,) = (
        torch.autograd.grad(one, states, retain_graph=True) for one in (terms["sentence_order"], losses)
    )
    torch.testing.assert_close(fast, exact, rtol=1e-4, atol=1e-6)
    assert (fast[1] == 0).all() and (fast[:, 1:] == 0).all() and (fast[0, 0] != 0).any()


def test_rows_without_any_pair_have_no_loss():
    objective = SentenceOrderConfig(type="sentence_order").build(shape(), shape(2, 12))
    terms = objective(Features(), Features({2: torch.randn(4, 9, 12)}), {"order_labels": torch.full((4,), -100)})
    assert [value.item() for value in terms.values()] == [0, 0, 0]


def test_micro_batches_with_the_count_of_their_step_average_to_the_whole():
    objective = SentenceOrderConfig(type="sentence_order").build(shape(), shape(2, 12))
    states, none = torch.randn(4, 9, 12), Features()
    whole = objective(none, Features({2: states}), {"order_labels": LABELS})["sentence_order"]
    parts = [
        objective(none, Features({2: states[rows]}), {"order_labels": LABELS[rows], "num_ordered": torch.tensor(3 / 2)})
        for rows in ([0, 1], [2, 3])
    ]
    torch.testing.assert_close((parts[0]["sentence_order"] + parts[1]["sentence_order"]) / 2, whole)


@pytest.mark.parametrize(
    ("family", "others", "published"),
    [
        ("albert", [{"type": "mlm"}], "AlbertForPreTraining"),
        ("albert", [], "AlbertModel"),
        ("bert", [{"type": "mlm"}], "BertForMaskedLM"),
        ("electra", [{"type": "mlm"}], "ElectraForMaskedLM"),
        ("electra", [{"type": "replaced_tokens"}], "ElectraForPreTraining"),
        ("bert", [], "BertModel"),
    ],
)
def test_a_family_that_has_the_head_trains_and_publishes_its_own(family, others, published):
    architecture = {"model_type": family, "max_row_tokens": 40}
    changes = {"architecture": architecture, "init": {"embeddings": "scratch"}, "dropout_prob": 0.0}
    config = student_config(objective=[{"type": "sentence_order"}, *others], **changes)
    student = build_student(config, None, 0, base=ArchitectureConfig(**architecture).build(VOCAB, 0))
    assert type(student.published).__name__ == published
    unreached = student.freeze_unreached(no_teacher)
    objective = student.objectives[0]
    if published == "AlbertForPreTraining":
        given = batch()
        assert unreached == [] and objective.classifier is student.published.sop_classifier
        logits = student.published(**given).sop_logits
        found = objective.classifier(objective.pooler(student.encoder(given).hidden_states[2][:, 0]))
        torch.testing.assert_close(found, logits, rtol=1e-5, atol=1e-6)
    else:
        assert not hasattr(student.published, "sop_classifier")
        assert all(name.startswith("pooler.") for name in unreached)
