"""Replaced tokens against a reference in float64, and what the samples may and may not depend on."""

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch.nn.functional import logsigmoid
from transformers import AutoConfig

from pretrain.models.encoder import Features
from pretrain.models.family import BERT_FAMILIES
from pretrain.models.shape import EncoderShape
from pretrain.models.teacher import no_teacher
from pretrain.objectives.generator import GeneratorConfig
from pretrain.objectives.registry import GeneralObjective
from pretrain.objectives.vocabulary import IGNORED, with_places
from pretrain.students.config import ArchitectureConfig
from pretrain.students.student import build_student
from tests.pretrain.tiny import VOCAB, batch, student_config, teacher_model

MASK = 1


def student_of(family="bert", objectives=(), **settings):
    objective = [{"type": "replaced_tokens", **settings}, *objectives]
    architecture = {"model_type": family, "max_row_tokens": 40}
    config = student_config(architecture=architecture, init={"embeddings": "scratch"}, objective=objective)
    return build_student(config, None, 0, base=ArchitectureConfig(**architecture).build(VOCAB, 0))


def masked_batch(seed=0):
    """Row 1 has 7 real tokens; the first token of a row and every second of the others are never masked."""
    rows, generator = batch(), torch.Generator().manual_seed(seed)
    chosen = torch.zeros_like(rows["input_ids"], dtype=torch.bool)
    chosen[:, 1::2] = rows["attention_mask"][:, 1::2].bool()
    labels = torch.where(chosen, rows["input_ids"], IGNORED)
    masked = {"input_ids": torch.where(chosen, MASK, rows["input_ids"]), "labels": labels}
    draws = torch.rand(labels.shape, generator=generator, dtype=torch.float64)
    return rows | masked | {"draws": draws}, rows["input_ids"], chosen


def slow_terms(objective, student, given, text):
    """Token by token in float64, on the states that the models give."""
    generator, labels, real = objective.generator, given["labels"], given["attention_mask"].bool()
    table = student.encoder.model.get_input_embeddings().weight
    states = generator.transform(generator.encoder(given).hidden_states[2]).double()
    predicted, sampled = torch.zeros(labels.shape, dtype=torch.float64), given["input_ids"].clone()
    for place in (labels != IGNORED).nonzero().tolist():
        logits = table.double() @ states[tuple(place)] + generator.bias.double()
        predicted[tuple(place)] = -torch.log_softmax(logits, 0)[labels[tuple(place)]]
        passed = logits.softmax(0).cumsum(0) > given["draws"][tuple(place)]
        sampled[tuple(place)] = passed.int().argmax()
    is_replaced = sampled != text
    logits = objective.head(student.encoder(given | {"input_ids": sampled}).hidden_states[2]).double()
    errors = -torch.where(is_replaced, logsigmoid(logits), logsigmoid(-logits)) * real
    if objective.reduction == "tokens":
        losses = predicted.sum() / (labels != IGNORED).sum(), errors.sum() / real.sum()
    else:
        losses = (predicted.sum(1) / (labels != IGNORED).sum(1)).mean(), (errors.sum(1) / real.sum(1)).mean()
    found = (logits > 0) & is_replaced
    return (*losses, is_replaced.sum() / (labels != IGNORED).sum(), found.sum() / is_replaced.sum()), sampled


@pytest.mark.parametrize("reduction", ["tokens", "rows"])
def test_the_terms_and_gradients_equal_the_reference(reduction):
    student = student_of(reduction=reduction)
    (objective,), (given, text, _) = student.objectives, masked_batch()
    loss, terms = student(given, no_teacher(given))
    slow, sampled = slow_terms(objective, student, given, text)
    names = ["generator", "discriminator", "replaced", "found"]
    assert list(terms) == ["loss", *(f"replaced_tokens/{name}" for name in names)]
    for name, value in zip(names, slow, strict=True):
        torch.testing.assert_close(terms[f"replaced_tokens/{name}"].double(), value.double(), rtol=1e-5, atol=1e-6)
    assert torch.equal(objective.prepare(given)["input_ids"], sampled)
    torch.testing.assert_close(loss.double(), slow[0] + 50 * slow[1], rtol=1e-5, atol=1e-5)
    parameters = [one for name, one in student.named_parameters() if "pooler" not in name]
    fast = torch.autograd.grad(loss, parameters)
    for a, b in zip(fast, torch.autograd.grad(slow[0] + 50 * slow[1], parameters), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_a_sample_that_hits_the_text_is_not_replaced_and_other_places_keep_their_tokens():
    student, (given, text, chosen) = student_of(), masked_batch()
    (objective,) = student.objectives
    with torch.no_grad():
        objective.generator.bias[: VOCAB // 2] = 1e4  # the samples are of half the vocabulary, and hit some
    ready = objective.prepare(given)
    assert torch.equal(ready["input_ids"][~chosen], text[~chosen]) and (text[chosen] < VOCAB // 2).any()
    assert torch.equal(ready["is_replaced"], (ready["input_ids"] != text) & chosen)
    with torch.no_grad():
        objective.generator.bias.fill_(-1e4)
        objective.generator.bias[int(text[0, 1])] = 1e4
    ready = objective.prepare(given)
    assert not ready["is_replaced"][0, 1] and (ready["input_ids"][chosen] == text[0, 1]).all()
    assert torch.equal(ready["is_replaced"], chosen & (text != text[0, 1]))


def test_the_padding_token_is_never_sampled():
    student, (given, text, _) = student_of("roberta"), masked_batch()
    (objective,) = student.objectives
    with torch.no_grad():
        objective.generator.bias[objective.pad_token_id] = 1e4
    assert torch.equal(objective.prepare(given)["input_ids"], text)


def test_the_students_loss_reaches_the_generator_through_the_shared_embeddings_alone():
    student, (given, _, _) = student_of(), masked_batch()
    (objective,) = student.objectives
    ready = objective.prepare(given)
    terms = objective(Features(), student.encoder(ready), ready)
    own = dict(objective.generator.named_parameters())
    gradients = torch.autograd.grad(terms["replaced_tokens/discriminator"], list(own.values()), allow_unused=True)
    reached = {name for name, gradient in zip(own, gradients, strict=True) if gradient is not None}
    shared = {id(one) for one in student.encoder.model.embeddings.parameters()}
    assert reached == {name for name, one in own.items() if id(one) in shared} and len(reached) == 5
    back = torch.autograd.grad(
        ready["generator_loss"], list(student.encoder.model.encoder.parameters()), allow_unused=True
    )
    assert set(back) == {None}


def test_samples_depend_on_a_rows_draws_and_on_nothing_else():
    student, (given, _, _) = student_of(), masked_batch()
    (objective,) = student.objectives
    ids = objective.prepare(given)["input_ids"]
    torch.manual_seed(99)
    assert torch.equal(objective.prepare(with_places(given))["input_ids"], ids)
    alone = {name: tensor[2:] for name, tensor in given.items()}
    assert torch.equal(objective.prepare(alone)["input_ids"][0], ids[2])
    other = objective.prepare(given | {"draws": masked_batch(seed=1)[0]["draws"]})["input_ids"]
    assert not torch.equal(other, ids)


def test_a_generator_that_knows_nothing_gives_the_values_of_chance():
    """Uniform samples hit the text once in V; a head that answers the base rate has its entropy as loss."""
    student = student_of()
    (objective,) = student.objectives
    rows = 400
    given = {name: tensor[:1].repeat(rows, 1) for name, tensor in masked_batch()[0].items()}
    given["draws"] = torch.rand(given["draws"].shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    share = 0.5 * (1 - 1 / VOCAB)  # half of the tokens are masked, row 0 has no padding
    with torch.no_grad():
        norm = objective.generator.transform[-1]
        norm.weight.zero_()
        norm.bias.zero_()
        objective.pad_token_id = None
        objective.head.dense_prediction.weight.zero_()
        objective.head.dense_prediction.bias.fill_(torch.logit(torch.tensor(share)))
    _, terms = student(given, no_teacher(given))
    assert terms["replaced_tokens/generator"].item() == pytest.approx(torch.tensor(float(VOCAB)).log().item(), rel=1e-5)
    error = (1 / VOCAB / (6 * rows)) ** 0.5
    assert terms["replaced_tokens/replaced"].item() == pytest.approx(1 - 1 / VOCAB, abs=4 * error)
    entropy = torch.distributions.Bernoulli(share).entropy().item()
    assert terms["replaced_tokens/discriminator"].item() == pytest.approx(entropy, abs=0.01)
    assert terms["replaced_tokens/found"] == 0, "the base rate is below a half"


@pytest.mark.parametrize("family", BERT_FAMILIES)
def test_every_family_shares_its_embeddings_and_trains_all_but_its_pooler(family):
    student, (given, _, _) = student_of(family), masked_batch()
    generator, encoder = student.objectives[0].generator, student.encoder.model
    assert generator.encoder.model.get_input_embeddings() is encoder.get_input_embeddings()
    assert all(name.startswith("pooler.") for name in student.freeze_unreached(no_teacher))
    student(given, no_teacher(given))[0].backward()
    assert all(one.grad is not None and one.grad.isfinite().all() for one in student.parameters() if one.requires_grad)
    published = "ElectraForPreTraining" if family == "electra" else type(encoder).__name__
    assert type(student.published).__name__ == published
    if family == "electra":
        assert student.objectives[0].head is student.published.discriminator_predictions


def test_a_student_that_starts_from_a_teacher_shares_what_it_starts_from():
    teacher = teacher_model()
    student = build_student(student_config(hidden_size=24, objective=[{"type": "replaced_tokens"}]), teacher, 0)
    table = student.objectives[0].generator.encoder.model.get_input_embeddings().weight
    assert torch.equal(table, teacher.embeddings.word_embeddings.weight)


def test_a_generators_width_is_a_multiple_of_its_heads():
    student = AutoConfig.for_model(
        "bert", hidden_size=312, num_attention_heads=12, intermediate_size=1200, num_hidden_layers=4
    )
    sizes = lambda **ratios: [  # noqa: E731
        getattr(GeneratorConfig(**ratios).hugging_face_config(student), key)
        for key in ("hidden_size", "num_attention_heads", "intermediate_size", "num_hidden_layers")
    ]
    assert sizes() == [78, 3, 300, 4]
    assert sizes(width_ratio=1.0, layer_ratio=0.5) == [312, 12, 1200, 2]
    assert sizes(width_ratio=0.01, layer_ratio=0.01) == [3, 1, 12, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"discriminator_weight": 0}, "discriminator_weight\n  Input should be greater than 0"),
        ({"generator": {"width_ratio": 1.5}}, "generator.width_ratio\n  Input should be less than or equal to 1"),
        ({"generator": {"layers": 2}}, "generator.layers\n  Extra inputs are not permitted"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(GeneralObjective).validate_python({"type": "replaced_tokens"} | change)


APART = "leave out one of them, or train one student from another (init.student)"


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ([{"type": "mlm"}], f"mlm predicts masked tokens, which objective.0 (replaced_tokens) replaces; {APART}"),
        (
            [{"type": "replaced_tokens"}],
            f"replaced_tokens predicts masked tokens, which objective.0 (replaced_tokens) replaces; {APART}",
        ),
        (
            [{"type": "hidden_states"}],
            "hidden_states compares what teacher and student make of one text, and with objective.0 (replaced_tokens) "
            f"they read different ones; {APART}",
        ),
        ([{"type": "sentence_order"}], None),
    ],
)
def test_objectives_that_read_another_text_are_refused_beside_it(others, message):
    config = student_config(objective=[{"type": "replaced_tokens"}, *others])
    found = list(config.problems(EncoderShape.of(teacher_model().config)))
    assert found == ([("objective.1.type", message)] if message else [])


def test_families_without_berts_embeddings_are_refused():
    architecture = {"model_type": "modernbert", "max_row_tokens": 40}
    alone = {
        "architecture": architecture,
        "init": {"embeddings": "scratch"},
        "objective": [{"type": "replaced_tokens"}],
    }
    ((key, message),) = student_config(hidden_size=24, **alone).problems(None)
    assert key == "objective.0.type"
    assert message == (
        "the generator shares BERT's embeddings, which a modernbert model has not; wanted a student of family bert, "
        "roberta, xlm-roberta, ernie, electra, albert"
    )
