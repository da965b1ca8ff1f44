"""Objectives with a vocabulary head against references in float64, token by token."""

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from transformers import AutoModelForMaskedLM

from pretrain.models.teacher import no_teacher
from pretrain.models.vocabulary_head import VocabularyHead
from pretrain.objectives.registry import GeneralObjective
from pretrain.objectives.vocabulary import IGNORED, DistilBERTConfig, MaskedLMConfig, with_places
from pretrain.students.config import ArchitectureConfig
from pretrain.students.student import build_student
from tests.pretrain.tiny import VOCAB, batch, feature_batch, features, shape, student_config, teacher_model


def head(width):
    torch.manual_seed(width)
    return VocabularyHead(AutoModelForMaskedLM.from_config(teacher_model(hidden_size=width).config))


def labelled_batch(num_padding=0):
    """The feature batch with labels: row 0 two, row 1 one, row 2 none; `num_padding` more padding."""
    batch = feature_batch()
    batch["labels"] = torch.full((3, 9), IGNORED)
    batch["labels"][0, 3], batch["labels"][0, 7], batch["labels"][1, 1] = 5, 49, 0
    batch["input_ids"] = torch.zeros_like(batch["labels"])
    values = {"attention_mask": 0, "labels": IGNORED, "input_ids": 0}
    return {name: torch.nn.functional.pad(t, (0, num_padding), value=values[name]) for name, t in batch.items()}


def models(width=12, num_padding=0):
    teacher, student = features(4, 24, 0), features(2, width, 1, requires_grad=True)
    teacher.head, student.head = head(24), head(width)
    for one in (teacher, student):
        for layer, hidden in one.hidden_states.items():
            padded = torch.nn.functional.pad(hidden.detach(), (0, 0, 0, num_padding), value=9.0)
            one.hidden_states[layer] = padded.requires_grad_(hidden.requires_grad)
    return teacher, student


def log_softmax(model, layer, row, column, temperature=1.0):
    logits = model.head.logits(model.hidden_states[layer][row, column]).double()
    return torch.log_softmax(logits / temperature, -1)


def mean_of(reduction, counted, value):
    """The mean of value(row, column) over all counted tokens, or over a row's and then over all rows."""
    rows = [[value(row, column) for column in counted[row].nonzero().flatten().tolist()] for row in range(3)]
    if reduction == "tokens":
        return torch.stack([value for row in rows for value in row]).mean()
    return torch.stack(
        [torch.stack(row).mean() if row else torch.zeros((), dtype=torch.float64) for row in rows]
    ).mean()


def slow_masked(student, batch, reduction):
    labels = batch["labels"]
    loss = lambda row, column: -log_softmax(student, 2, row, column)[labels[row, column]]  # noqa: E731
    return mean_of(reduction, labels != IGNORED, loss)


def slow_terms(objective, teacher, student, batch):
    real, masked = batch["attention_mask"].bool(), batch["labels"] != IGNORED
    reduction = objective.reduction

    def soft(row, column):
        temperature = objective.temperature
        log_p = log_softmax(teacher, 4, row, column, temperature)
        log_q = log_softmax(student, 2, row, column, temperature)
        return temperature**2 * (log_p.exp() * (log_p - log_q)).sum()

    def distance(row, column):
        a = objective.projection(student.hidden_states[2][row, column]).double()
        b = teacher.hidden_states[4][row, column].double()
        return 1 - a @ b / (a.norm() * b.norm())

    return {
        "distilbert/soft": mean_of(reduction, real if objective.positions == "real" else masked, soft),
        "distilbert/mlm": slow_masked(student, batch, reduction),
        "distilbert/cosine": mean_of(reduction, real, distance),
    }


def assert_equal_terms_and_gradients(objective, terms, slow, student):
    assert list(terms) == list(slow)
    for name in terms:
        assert terms[name].dtype == torch.float32
        torch.testing.assert_close(terms[name].double(), slow[name], rtol=1e-5, atol=1e-6)
    inputs = [student.hidden_states[2], student.head.weight, *student.head.transform.parameters()]
    fast_gradient = torch.autograd.grad(objective.total(terms), inputs, retain_graph=True)
    slow_gradient = torch.autograd.grad(objective.total(slow), inputs)
    for a, b in zip(fast_gradient, slow_gradient, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    return fast_gradient[0]


@pytest.mark.parametrize("reduction", ["tokens", "rows"])
def test_masked_language_modelling_equals_the_reference(reduction):
    config, batch = MaskedLMConfig(type="mlm", weight=0.5, reduction=reduction), labelled_batch()
    objective = config.build(shape(), shape(2, 12))
    teacher, student = models()
    terms = objective(teacher, student, batch)
    gradient = assert_equal_terms_and_gradients(
        objective, terms, {"mlm": slow_masked(student, batch, reduction)}, student
    )
    assert (gradient[batch["labels"] == IGNORED] == 0).all()
    assert not objective.teacher_reads.hidden_states and objective.student_reads.hidden_states == {2}


@pytest.mark.parametrize("width", [12, 24])
@pytest.mark.parametrize(("positions", "reduction"), [("real", "tokens"), ("masked", "tokens"), ("real", "rows")])
def test_distilbert_equals_the_reference(width, positions, reduction):
    config = DistilBERTConfig(type="distilbert", positions=positions, reduction=reduction, weight=0.5)
    objective = config.build(shape(), shape(2, width))
    (teacher, student), batch = models(width), labelled_batch()
    teacher.hidden_states[4].requires_grad_()
    terms, slow = objective(teacher, student, batch), slow_terms(objective, teacher, student, batch)
    gradient = assert_equal_terms_and_gradients(objective, terms, slow, student)
    assert (gradient[~batch["attention_mask"].bool()] == 0).all()
    above = [teacher.hidden_states[4], *teacher.head.parameters()]
    assert torch.autograd.grad(sum(terms.values()), above, allow_unused=True) == (None,) * len(above)
    assert len(list(objective.parameters())) == (width != 24)
    weighted = 5 * terms["distilbert/soft"] + 2 * terms["distilbert/mlm"] + terms["distilbert/cosine"]
    torch.testing.assert_close(objective.total(terms), 0.5 * weighted)


@pytest.mark.parametrize("config", [MaskedLMConfig(type="mlm"), DistilBERTConfig(type="distilbert")])
def test_more_padding_changes_nothing(config):
    objective = config.build(shape(), shape(2, 12))
    terms, wider = (objective(*models(num_padding=n), labelled_batch(n)) for n in (0, 4))
    for name in terms:
        torch.testing.assert_close(terms[name], wider[name])


@pytest.mark.parametrize("positions", ["real", "masked"])
def test_places_found_before_change_no_bit(positions):
    batch, (teacher, student) = labelled_batch(3), models(num_padding=3)
    placed = with_places(batch)
    assert placed["labelled_places"].tolist() == [3, 7, 12 + 1]
    assert torch.equal(placed["real_places"], batch["attention_mask"].flatten().nonzero().squeeze(1))
    objective = DistilBERTConfig(type="distilbert", positions=positions).build(shape(), shape(2, 12))
    found = []
    for one in (batch, placed):
        terms = objective(teacher, student, one)
        inputs = [student.hidden_states[2], student.head.weight]
        found.append([*terms.values(), *torch.autograd.grad(objective.total(terms), inputs)])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*found, strict=True))


def test_distilbert_is_zero_when_both_agree():
    config = DistilBERTConfig(type="distilbert", mlm_weight=0)
    objective, (teacher, student) = config.build(shape(), shape(2, 24)), models(24)
    student.hidden_states[2], student.head = teacher.hidden_states[4], teacher.head
    terms = objective(teacher, student, labelled_batch())
    assert set(terms) == {"distilbert/soft", "distilbert/cosine"}
    assert all(value.abs() < 1e-5 for value in terms.values())


def test_bfloat16_features_give_a_float32_loss_near_the_float32_one():
    objective = DistilBERTConfig(type="distilbert").build(shape(), shape(2, 24))
    exact = objective(*models(24), labelled_batch())
    teacher, student = models(24)
    for one in (teacher, student):
        one.hidden_states = {layer: hidden.bfloat16() for layer, hidden in one.hidden_states.items()}
        one.head.bfloat16()
    low = objective(teacher, student, labelled_batch())
    for name in low:
        assert low[name].dtype == torch.float32
        torch.testing.assert_close(low[name], exact[name], rtol=0.05, atol=2e-3)


def test_projections_start_at_the_basis_and_labels_are_asked_for_where_they_are_read():
    objective, basis = DistilBERTConfig(type="distilbert").build(shape(), shape(2, 12)), torch.randn(24, 12)
    objective.start_from(basis)
    assert torch.equal(objective.projection.weight, basis)
    needs = lambda **changes: DistilBERTConfig(type="distilbert", **changes).needs_masking  # noqa: E731
    assert MaskedLMConfig(type="mlm").needs_masking and not MaskedLMConfig(type="mlm").needs_teacher_head
    assert needs() and not needs(mlm_weight=0) and needs(mlm_weight=0, positions="masked")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0}, "temperature\n  Input should be greater than 0"),
        ({"soft_weight": 0}, "soft_weight\n  Input should be greater than 0"),
        ({"positions": "all"}, "positions\n  Input should be 'real' or 'masked'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(GeneralObjective).validate_python({"type": "distilbert"} | change)


def test_a_student_with_both_kinds_of_objective_sums_them():
    teacher = teacher_model()
    config = student_config(objective=[{"type": "minilm_v2", "num_relation_heads": 4}, {"type": "mlm", "weight": 0.1}])
    student, batch = build_student(config, teacher, seed=0), labelled_batch()
    of_teacher = features(4, 24, 0)
    loss, terms = student(batch | {"token_type_ids": torch.zeros_like(batch["input_ids"])}, of_teacher)
    relations = sum(value for name, value in terms.items() if name.startswith("relation/"))
    torch.testing.assert_close(loss, relations + 0.1 * terms["mlm"])
    assert terms["mlm"] > 0.5 * torch.tensor(VOCAB).log()


def test_the_student_learns_the_labels_of_a_batch_by_heart():
    """Ids, positions and context reach the logits, and what the loss says reaches the weights."""
    alone = {"architecture": {"model_type": "bert"}, "init": {"embeddings": "scratch"}, "objective": [{"type": "mlm"}]}
    base = ArchitectureConfig(model_type="bert", max_row_tokens=40).build(VOCAB, 0)
    student, rows = build_student(student_config(**alone), None, seed=0, base=base), batch()
    generator = torch.Generator().manual_seed(0)
    chosen = (torch.rand(rows["input_ids"].shape, generator=generator) < 0.4) & rows["attention_mask"].bool()
    labelled = rows | {"labels": torch.where(chosen, rows["input_ids"], IGNORED)}
    labelled["input_ids"] = torch.where(chosen, 1, rows["input_ids"])
    optimizer = torch.optim.Adam(student.parameters(), lr=0.02)
    losses = []
    for _ in range(120):
        loss, _ = student(labelled, no_teacher(labelled))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert abs(losses[0] - torch.tensor(float(VOCAB)).log().item()) < 0.5, "about uniform at first"
    assert losses[-1] < 0.1
