"""Adversarial losses equal a slow reference, per row, in every family; padding, weights and batches do not matter."""

import copy

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from pretrain.models.encoder import Features
from pretrain.models.shape import EncoderShape
from tasks.adversarial import AdversarialConfig, AdversarialStudent, added, unit_rows, within
from tasks.label_objectives import TaskObjective
from tasks.rows import IGNORED
from tasks.stage import StageConfig
from tests.pretrain.tiny import batch as tiny_batch
from tests.pretrain.tiny import teacher_model

FGM = {"type": "fgm", "epsilon": 0.5}
PGD = {"type": "pgd", "epsilon": 0.5, "step_size": 0.3, "num_steps": 3}
STAGE = {"optimizer": {"lr": 1e-3}}
FAMILIES = ("bert", "roberta", "albert", "electra", "modernbert", "eurobert", "deberta-v2", "roformer", "qwen3")


def student(adversarial, model_type="bert", auto_class=AutoModelForSequenceClassification, **keys):
    model = teacher_model(model_type, auto_class, initializer_range=0.2, pad_token_id=0, **keys)
    own = EncoderShape.of(model.config)
    objective = TypeAdapter(TaskObjective).validate_python({"type": "labels"}).build(own, own)
    config = TypeAdapter(AdversarialConfig).validate_python(adversarial)
    return AdversarialStudent("s", model, [objective], 0.0, config)


def batch(num_rows=8):
    """Rows with padding, each with a class."""
    values = tiny_batch(num_rows, seed=3)
    values["attention_mask"][2, 4:] = 0
    values["input_ids"] = values["input_ids"].masked_fill(values["attention_mask"] == 0, 0)
    return {**values, "labels": torch.arange(num_rows) % 2}


def gradients(one, *parts):
    """Of every weight, as an engine accumulates them over micro-batches."""
    one = copy.deepcopy(one)
    for part in parts:
        (one(part, Features())[0] / len(parts)).backward()
    return {name: weight.grad for name, weight in one.named_parameters() if weight.grad is not None}


def perturbations(one, values, monkeypatch):
    """What is added to the embeddings in each pass, [B, L, E]."""
    seen = []

    def note(embeddings, delta):
        seen.append(delta.detach().clone())
        return added(embeddings, delta)

    monkeypatch.setattr("tasks.adversarial.added", note)
    one(values, Features())
    return seen


def reference(one, values):
    """A row at a time in float64, from embeddings handed to the model: the total loss, and the last perturbations."""
    model, config = copy.deepcopy(one.encoder.model).double(), one.adversarial
    model.set_attn_implementation("eager")
    words = model.get_input_embeddings()
    num_steps, length = config.steps
    total, deltas = torch.zeros((), dtype=torch.float64), []
    for row in range(len(values["labels"])):
        real = int(values["attention_mask"][row].sum())
        ids, label = values["input_ids"][row : row + 1, :real], values["labels"][row : row + 1]

        def loss(delta, ids=ids, label=label):
            logits = model(inputs_embeds=words(ids) + delta).logits
            return torch.nn.functional.cross_entropy(logits, label)

        size = float(words(ids).detach().norm())
        delta = torch.zeros(1, real, words.embedding_dim, dtype=torch.float64)
        total = total + loss(delta)
        for _ in range(num_steps):
            delta = delta.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(loss(delta), delta)
            delta = delta.detach() + length * size * gradient / gradient.norm()
            delta = delta * min(1.0, config.epsilon * size / float(delta.norm()))
        total = total + loss(delta)
        deltas.append(delta[0])
    total = total / len(deltas)
    total.backward()
    return total, deltas, {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("adversarial", [FGM, PGD], ids=["fgm", "pgd"])
@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_loss_and_gradients_equal_a_reference_a_row_at_a_time(adversarial, family, monkeypatch):
    one, values = student(adversarial, family), batch()
    total, deltas, expected = reference(one, values)
    ours = gradients(one, values)
    assert one(values, Features())[0].item() == pytest.approx(total.item(), rel=1e-5)
    last = perturbations(one, values, monkeypatch)[-1]
    for row, delta in enumerate(deltas):
        torch.testing.assert_close(last[row, : len(delta)].double(), delta, atol=2e-5, rtol=1e-3)
    for name, gradient in expected.items():
        torch.testing.assert_close(ours[f"encoder.model.{name}"].double(), gradient, atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("adversarial", [FGM, PGD], ids=["fgm", "pgd"])
def test_every_family_is_perturbed_by_a_share_of_each_row_and_not_in_padding(family, adversarial, monkeypatch):
    one, values = student(adversarial, family), batch()
    before = {name: weight.clone() for name, weight in one.state_dict().items()}
    first, *moved = perturbations(one, values, monkeypatch)
    assert not first.any() and len(moved) == one.adversarial.steps[0]
    padding = values["attention_mask"] == 0
    words = one.encoder.model.base_model.get_input_embeddings()(values["input_ids"]).detach()
    sizes = words.masked_fill(padding.unsqueeze(-1), 0).flatten(1).norm(dim=1)
    for delta in moved:
        assert not delta[padding].any() and delta[~padding].abs().sum(-1).all()
        assert (delta.flatten(1).norm(dim=1) <= one.adversarial.epsilon * sizes * 1.0001).all()
    if adversarial is FGM:
        torch.testing.assert_close(moved[0].flatten(1).norm(dim=1), 0.5 * sizes)
    _, terms = one(values, Features())
    assert terms["adversarial"] > terms["labels"] and terms["loss"] == terms["labels"] + terms["adversarial"]
    assert all(torch.equal(before[name], weight) for name, weight in one.state_dict().items())
    assert not one.encoder.model.base_model.get_input_embeddings()._forward_hooks
    assert all(weight.grad is None for weight in one.parameters())


@pytest.mark.parametrize("adversarial", [FGM, PGD], ids=["fgm", "pgd"])
def test_two_micro_batches_of_four_are_one_of_eight(adversarial):
    one, values = student(adversarial), batch()
    halves = [{name: rows[part] for name, rows in values.items()} for part in (slice(0, 4), slice(4, 8))]
    whole, accumulated = gradients(one, values), gradients(one, *halves)
    assert whole.keys() == accumulated.keys()
    for name in whole:
        torch.testing.assert_close(accumulated[name], whole[name], atol=1e-5, rtol=1e-3)


def test_one_step_of_pgd_is_fgm_and_a_tiny_one_doubles_the_gradient():
    values, fgm = batch(), student(FGM)
    one_step = student({"type": "pgd", "epsilon": 0.5, "step_size": 0.5, "num_steps": 1})
    ours, theirs = gradients(one_step, values), gradients(fgm, values)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    tiny, clean = gradients(student({"type": "fgm", "epsilon": 1e-9}), values), copy.deepcopy(fgm)
    super(AdversarialStudent, clean)._loss(values, Features())[0].backward()
    for name, weight in clean.named_parameters():
        if weight.grad is not None:
            torch.testing.assert_close(tiny[name], 2 * weight.grad)


@pytest.mark.parametrize("auto_class", [AutoModelForTokenClassification, AutoModelForQuestionAnswering])
def test_heads_of_tokens_learn_too_and_rows_without_labels_stay_where_they_are(auto_class, monkeypatch):
    one, values = student(PGD, auto_class=auto_class), batch(4)
    del values["labels"]
    if auto_class is AutoModelForTokenClassification:
        values["labels"] = torch.where(values["attention_mask"] > 0, values["input_ids"] % 2, IGNORED)
        values["labels"][3] = IGNORED
    else:
        values |= {
            "start_positions": torch.tensor([1, 2, 0, IGNORED]),
            "end_positions": torch.tensor([3, 5, 0, IGNORED]),
        }
    last = perturbations(one, values, monkeypatch)[-1]
    assert last[:3].flatten(1).any(1).all() and not last[3].any()
    grads = gradients(one, values)
    assert all(gradient.isfinite().all() for gradient in grads.values())


def test_a_model_whose_embeddings_are_larger_is_perturbed_by_the_same_share(monkeypatch):
    one, values = student(FGM), batch()
    small = perturbations(one, values, monkeypatch)[-1].flatten(1).norm(dim=1)
    with torch.no_grad():
        one.encoder.model.base_model.get_input_embeddings().weight.mul_(10)
    torch.testing.assert_close(perturbations(one, values, monkeypatch)[-1].flatten(1).norm(dim=1), 10 * small)


def test_the_state_of_a_model_that_is_scored_is_not_perturbed():
    one, values = student(FGM), batch()
    clean = super(AdversarialStudent, one)._loss(values, Features())[0]
    with torch.no_grad():
        assert torch.equal(one(values, Features())[0], clean)
    assert torch.equal(one.eval()(values, Features())[0], clean)


def test_gradients_too_small_to_square_have_a_direction_and_zeros_none():
    gradient = torch.tensor([[[3e-30, 4e-30]], [[0.0, 0.0]], [[3e30, 4e30]]])
    torch.testing.assert_close(unit_rows(gradient), torch.tensor([[[0.6, 0.8]], [[0.0, 0.0]], [[0.6, 0.8]]]))
    assert unit_rows(torch.tensor([[[float("nan"), 1.0]]])).isnan().any()
    moved = within(
        torch.tensor([[[3.0, 4.0]], [[0.3, 0.4]], [[0.0, 0.0]]]), torch.tensor([1.0, 1.0, 0.0]).view(3, 1, 1)
    )
    torch.testing.assert_close(moved, torch.tensor([[[0.6, 0.8]], [[0.3, 0.4]], [[0.0, 0.0]]]))


def test_half_precision_finds_the_direction_by_the_loss_scale(monkeypatch):
    one, values = student(FGM), batch()
    exact = perturbations(one, values, monkeypatch)[-1]
    one.dtype, one.loss_scale = "bfloat16", torch.tensor(65536.0)
    half = perturbations(one, values, monkeypatch)[-1]
    cosine = torch.nn.functional.cosine_similarity(exact.flatten(1), half.flatten(1))
    assert (cosine > 0.95).all()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"objective": [{"type": "minilm_v2", "num_relation_heads": 4}], "adversarial": FGM},
         "adversarial\n.*fgm needs a loss of the predictions, which this stage does not train: add an objective of "
         "type labels or soft_labels, or give adversarial to ft or td2"),
        ({"objective": [{"type": "hidden_states"}], "adversarial": PGD}, "pgd needs a loss of the predictions"),
        ({"adversarial": PGD | {"epsilon": 0.2}}, r"must be at most epsilon \(0.2\), got 0.3: longer steps end"),
        ({"adversarial": {"type": "fgm", "epsilon": 0}}, "greater than 0"),
        ({"adversarial": {"type": "fgm", "epsilon": 1.0}},
         "is a share of the norm of a row's embeddings: must be less than 1, got 1; 0.02 is usual, and norms from code "
         "that perturbs the whole table of embeddings do not carry over"),
        ({"adversarial": {"type": "fgm", "num_steps": 2}}, "Extra inputs are not permitted"),
        ({"adversarial": {"type": "freelb"}}, "'fgm', 'pgd'"),
    ],
)  # fmt: skip
def test_stages_in_which_it_cannot_work_are_refused(keys, message):
    with pytest.raises(ValidationError, match=message):
        StageConfig.model_validate(STAGE | {"objective": [{"type": "labels"}]} | keys)
