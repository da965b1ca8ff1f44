"""Features are the tensors that transformers itself computes, for every family, and nothing above them runs."""

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from pretrain.models.encoder import Encoder, Reads, real_tokens, union, without_padding
from pretrain.models.family import BERT_FAMILIES
from pretrain.models.shape import EncoderShape
from pretrain.models.structure import cut_layers
from tests.pretrain.tiny import ROW_TOKENS, batch, teacher_model


@pytest.mark.parametrize("model_type", BERT_FAMILIES)
@torch.no_grad()
def test_features_equal_transformers_own(model_type):
    model = teacher_model(model_type)
    inputs = batch()
    encoder = Encoder(model, Reads(frozenset({0, 2, 4}), frozenset({2, 4})))
    reference = model(**inputs, output_hidden_states=True).hidden_states
    features = encoder(inputs)
    real = inputs["attention_mask"].bool()
    for layer, hidden in features.hidden_states.items():
        torch.testing.assert_close(hidden[real], reference[layer][real])
    attention = next(module for module in model.modules() if hasattr(module, "query"))
    if model_type == "albert":  # one shared layer: its query projection of hidden state 3 is layer 4's
        torch.testing.assert_close(features.query[4][real], attention.query(reference[3])[real])
    else:
        last = model.encoder.layer[3].attention.self
        for name in ("query", "key", "value"):
            expected = getattr(last, name)(reference[3])
            torch.testing.assert_close(getattr(features, name)[4][real], expected[real])
    assert set(features.query) == set(features.key) == set(features.value) == {2, 4}


def test_nothing_above_the_last_read_is_computed():
    model = teacher_model()
    calls = []
    for index, layer in enumerate(model.encoder.layer, start=1):
        layer.attention.output.register_forward_hook(lambda *_, index=index: calls.append(index))
    Encoder(model, Reads(projections=frozenset({3})))(batch())
    assert calls == [1, 2]  # of layer 3 the projections alone ran, of layer 4 nothing


def test_hidden_state_of_a_cut_model_is_its_output():
    whole, cut = teacher_model(), teacher_model()
    reads = Reads(hidden_states=frozenset({2}))
    encoder = Encoder(cut, reads)
    cut_layers(cut, reads.num_layers)
    assert len(cut.encoder.layer) == 2
    torch.testing.assert_close(encoder(batch()).hidden_states[2], Encoder(whole, reads)(batch()).hidden_states[2])


def test_the_model_answers_as_usual_outside_of_reading():
    model = teacher_model()
    expected = model(**batch()).last_hidden_state
    encoder = Encoder(model, Reads(projections=frozenset({1})))
    encoder(batch())
    torch.testing.assert_close(model(**batch()).last_hidden_state, expected)


def test_other_reads_are_for_one_call_and_a_released_model_is_read_no_more():
    model = teacher_model()
    encoder, other = Encoder(model, Reads(projections=frozenset({1}))), Reads(hidden_states=frozenset({4}))
    assert set(encoder(batch(), other).hidden_states) == {4} and set(encoder(batch()).query) == {1}
    encoder.release()
    assert not encoder(batch(), other).hidden_states
    with torch.no_grad():
        expected = Encoder(model, other)(batch()).hidden_states[4]
        torch.testing.assert_close(model(**batch()).last_hidden_state, expected)


def test_features_do_not_depend_on_padding():
    encoder = Encoder(teacher_model(), Reads(frozenset({4}), frozenset({4})))
    padded = batch()
    row = {name: tensor[1:2, :7] for name, tensor in padded.items()}
    a, b = encoder(padded), encoder(without_padding(row))
    torch.testing.assert_close(a.hidden_states[4][1:2, :7], b.hidden_states[4])
    torch.testing.assert_close(a.value[4][1:2, :7], b.value[4])


def test_a_mask_that_masks_nothing_is_dropped():
    assert "attention_mask" not in without_padding(batch(padding=False))
    assert "attention_mask" in without_padding(batch())
    assert real_tokens(without_padding(batch(padding=False))).all()
    assert real_tokens(batch())[1].sum() == 7


@torch.no_grad()
def test_columns_that_are_padding_in_every_row_are_cut_and_change_no_feature():
    inputs = batch() | {"labels": batch()["input_ids"], "real_rows": torch.ones(3)}
    wide = {name: torch.nn.functional.pad(t, (0, 20)) if t.dim() == 2 else t for name, t in inputs.items()}
    cut = without_padding(wide)
    assert {name: tuple(t.shape) for name, t in cut.items()} == {
        name: (3, 16) if t.dim() == 2 else (3,) for name, t in wide.items()
    }
    encoder, real = Encoder(teacher_model(), Reads(hidden_states=frozenset({4}))), inputs["attention_mask"].bool()
    found, wanted = (encoder(one).hidden_states[4][:, :ROW_TOKENS] for one in (cut, inputs))
    torch.testing.assert_close(found[real], wanted[real])


def test_union_serves_every_objective():
    both = union([Reads(frozenset({1}), frozenset({2})), Reads(frozenset({3}))])
    assert both == Reads(frozenset({1, 3}), frozenset({2}))
    assert both.num_layers == 3
    assert union([]).num_layers == 0


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("mpnet", "its attention does not go through transformers' interface"),
        ("t5", "it has an encoder and a decoder"),
        ("clip", "it is not one model of text"),
    ],
)
def test_families_that_cannot_be_read_are_refused(model_type, reason):
    message = f"model_type '{model_type}' is not supported: {reason}; known to work: bert, roberta, "
    with pytest.raises(ValueError, match=message):
        EncoderShape.of(AutoConfig.for_model(model_type))


def test_roberta_positions_start_after_the_padding_index():
    assert EncoderShape.of(teacher_model("roberta").config).max_row_tokens == 40 - 2
    assert EncoderShape.of(teacher_model("bert").config).max_row_tokens == 40


@pytest.mark.parametrize("model_type", BERT_FAMILIES)
def test_documents_of_a_row_do_not_see_each_other(model_type):
    """Other ids in one document, or in the padding, leave the other documents' features as they were; else not."""
    encoder = Encoder(teacher_model(model_type), Reads(hidden_states=frozenset({4})))
    inputs = batch(2, padding=False)
    changed = inputs | {"input_ids": inputs["input_ids"].clone()}
    changed["input_ids"][:, 5:] = inputs["input_ids"].flip(0)[:, 5:]
    ids = torch.tensor([0] * 5 + [1] * 4 + [2] * (ROW_TOKENS - 9)).expand(2, -1)
    with torch.no_grad():
        before, after = (encoder(one | {"document_ids": ids}).hidden_states[4] for one in (inputs, changed))
        assert torch.equal(before[:, :5], after[:, :5]) and not torch.allclose(before[:, 5:], after[:, 5:])
        before, after = (encoder(one).hidden_states[4] for one in (inputs, changed))
        assert not torch.allclose(before[:, :5], after[:, :5])


@pytest.mark.parametrize("model_type", BERT_FAMILIES)
def test_documents_of_a_row_are_read_as_if_each_were_alone(model_type):
    encoder = Encoder(teacher_model(model_type), Reads(frozenset({0, 4}), frozenset({2})))
    ids = batch(2, padding=False)["input_ids"]
    documents = torch.tensor([0] * 5 + [1] * 4 + [-1] * (ROW_TOKENS - 9)).expand(2, -1)
    places = torch.tensor([*range(5), *range(4), *[0] * (ROW_TOKENS - 9)]).expand(2, -1)
    with torch.no_grad():
        together = encoder({"input_ids": ids, "document_ids": documents, "position_ids": places})
        for part in (slice(0, 5), slice(5, 9)):
            alone = encoder({"input_ids": ids[:, part]})
            for layer in (0, 4):
                torch.testing.assert_close(together.hidden_states[layer][:, part], alone.hidden_states[layer])
            torch.testing.assert_close(together.query[2][:, part], alone.query[2])


TASK_MODELS = {
    AutoModelForSequenceClassification: (3, 5),
    AutoModelForTokenClassification: (3, ROW_TOKENS, 5),
    AutoModelForQuestionAnswering: (3, ROW_TOKENS, 2),
}


@pytest.mark.parametrize("auto_class", TASK_MODELS)
@pytest.mark.parametrize("model_type", BERT_FAMILIES)
@torch.no_grad()
def test_logits_equal_transformers_own_and_lower_layers_are_read_with_them(model_type, auto_class):
    num_labels = TASK_MODELS[auto_class][-1]
    model, inputs = teacher_model(model_type, auto_class, num_labels=num_labels), batch()
    expected = model(**inputs, output_hidden_states=True)
    features = Encoder(model, Reads(frozenset({0, 2, 4}), frozenset({2, 4}), logits=True))(inputs)
    real = inputs["attention_mask"].bool()
    assert features.logits.shape == TASK_MODELS[auto_class]
    if auto_class is AutoModelForQuestionAnswering:
        torch.testing.assert_close(features.logits[..., 0][real], expected.start_logits[real])
        torch.testing.assert_close(features.logits[..., 1][real], expected.end_logits[real])
    elif auto_class is AutoModelForTokenClassification:
        torch.testing.assert_close(features.logits[real], expected.logits[real])
    else:
        torch.testing.assert_close(features.logits, expected.logits)
    assert set(features.query) == set(features.key) == set(features.value) == {2, 4}
    for layer in (0, 2, 4):
        torch.testing.assert_close(features.hidden_states[layer][real], expected.hidden_states[layer][real])


@pytest.mark.parametrize("auto_class", TASK_MODELS)
def test_a_task_model_read_without_its_logits_stops_early_all_the_same(auto_class):
    model, calls = teacher_model(auto_class=auto_class), []
    for index, layer in enumerate(model.base_model.encoder.layer, start=1):
        layer.attention.output.register_forward_hook(lambda *_, index=index: calls.append(index))
    features = Encoder(model, Reads(hidden_states=frozenset({2})))(batch())
    assert calls == [1, 2] and set(features.hidden_states) == {2} and features.logits is None


@torch.no_grad()
def test_logits_do_not_depend_on_padding():
    padded = batch()
    row = {name: tensor[1:2, :7] for name, tensor in padded.items()}
    for auto_class in TASK_MODELS:
        encoder = Encoder(teacher_model(auto_class=auto_class), Reads(logits=True))
        whole, alone = encoder(padded).logits[1:2], encoder(without_padding(row)).logits
        torch.testing.assert_close(whole if whole.dim() == 2 else whole[:, :7], alone)


@pytest.mark.parametrize("model_type", BERT_FAMILIES)
@torch.no_grad()
def test_the_last_hidden_state_of_a_base_model_is_read(model_type):
    model = teacher_model(model_type)
    expected = model(**batch()).last_hidden_state
    features = Encoder(model, Reads(hidden_states=frozenset({4})))(batch())
    real = batch()["attention_mask"].bool()
    torch.testing.assert_close(features.hidden_states[4][real], expected[real])


def test_logits_are_read_where_one_of_many_wants_them():
    assert union([Reads(frozenset({1})), Reads(logits=True)]) == Reads(frozenset({1}), logits=True)
    assert not union([Reads(frozenset({1}))]).logits
