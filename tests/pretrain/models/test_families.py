"""Families without BERT's layers: what is read is what transformers computes, and what is cut away changes nothing."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pretrain.models.encoder import Encoder, Reads
from pretrain.models.family import BERT_FAMILIES, FAMILIES
from pretrain.models.pretrained import load_encoder
from pretrain.models.shape import EncoderShape
from pretrain.models.structure import cut_layers, final_norm, layers_of
from tests.pretrain.tiny import batch, teacher_model

OTHERS = [name for name in FAMILIES if name not in BERT_FAMILIES]
UNKNOWN = ["distilbert", "llama", "gpt2"]  # by name, but their attention goes through the interface
ROTARY = ["nomic_bert", "modernbert", "eurobert", "qwen3", "gemma3_text", "llama"]
ALL = Reads(frozenset(range(5)), frozenset({1, 2, 3, 4}))


def _three(names: str, norm: str) -> Callable[[Any, Tensor], list[Tensor]]:
    """Queries, keys and values by hand: three linear layers of an attention on the normalised input of the layer."""
    holder, *ends = names.split(" ")

    def compute(layer: Any, state: Tensor) -> list[Tensor]:
        state = layer.get_submodule(norm)(state) if norm else state
        return [layer.get_submodule(f"{holder}.{end}")(state) for end in ends]

    return compute


def _fused(layer: Any, state: Tensor) -> list[Tensor]:
    return list(layer.attn.Wqkv(layer.attn_norm(state)).chunk(3, -1))


def _grouped(layer: Any, state: Tensor) -> list[Tensor]:
    """Of the Llama kind: two heads of keys and values for four of queries; in two families normalised by head."""
    attention, state = layer.self_attn, layer.input_layernorm(state)
    found = []
    for name in ("q", "k", "v"):
        heads = getattr(attention, f"{name}_proj")(state).unflatten(-1, (-1, attention.head_dim))
        norm = getattr(attention, f"{name}_norm", None)
        heads = heads if norm is None else norm(heads)
        found.append(heads.repeat_interleave(4 // heads.shape[2], 2).flatten(2))
    return found


BY_HAND: dict[str, Callable[[Any, Tensor], list[Tensor]]] = {
    "xlm-roberta-xl": _three("attention.self query key value", "attention.self_attn_layer_norm"),
    "megatron-bert": _three("attention.self query key value", "attention.ln"),
    "roformer": _three("attention.self query key value", ""),
    "deberta-v2": _three("attention.self query_proj key_proj value_proj", ""),
    "nomic_bert": _three("self_attn q_proj k_proj v_proj", ""),
    "distilbert": _three("attention q_lin k_lin v_lin", ""),
    "modernbert": _fused,
    "eurobert": _grouped,
    "qwen3": _grouped,
    "gemma3_text": _grouped,
}


@pytest.mark.parametrize("family", BY_HAND)
@torch.no_grad()
def test_queries_keys_and_values_are_those_of_the_layers(family):
    model, inputs = teacher_model(family), batch()
    real, encoder = inputs["attention_mask"].bool(), Encoder(model, ALL)
    states: list[Tensor] = []  # inputs of the layers, before any final norm
    for layer in layers_of(model):
        layer.register_forward_pre_hook(
            lambda _, args, kwargs: states.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
        )
    found = encoder(inputs)
    for number, layer in enumerate(layers_of(model), start=1):
        for name, wanted in zip(("query", "key", "value"), BY_HAND[family](layer, states[number - 1]), strict=True):
            torch.testing.assert_close(getattr(found, name)[number][real], wanted[real], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", [*OTHERS, *UNKNOWN])
@torch.no_grad()
def test_hidden_states_are_transformers_own_normalised_as_the_last_one_is(family):
    model, inputs = teacher_model(family), batch()
    real, norm = inputs["attention_mask"].bool(), final_norm(model)
    given = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    reference = model(**given, output_hidden_states=True)
    found = Encoder(model, Reads(frozenset(range(5))))(inputs).hidden_states
    for number in range(5):
        wanted = reference.last_hidden_state if number == 4 else reference.hidden_states[number]
        wanted = norm(wanted) if norm and 0 < number < 4 else wanted
        torch.testing.assert_close(found[number][real], wanted[real], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ROTARY)
@torch.no_grad()
def test_rotated_queries_and_keys_give_the_weights_of_attention(family):
    model, inputs = teacher_model(family), batch(padding=False)
    reads, number = Reads(rotated=frozenset({4})), 4
    query, key = Encoder(model, reads)(inputs).rotated[number]
    model.set_attn_implementation("eager")
    wanted = model(input_ids=inputs["input_ids"], output_attentions=True).attentions[number - 1]
    query, key = (one.unflatten(-1, (4, -1)).transpose(1, 2) for one in (query, key))
    scores = query @ key.mT * query.shape[-1] ** -0.5
    torch.testing.assert_close(scores.masked_fill(wanted == 0, -torch.inf).softmax(-1), wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_scaled_rotations_are_undone_too():
    """YaRN multiplies cosines and sines by a factor; before rotation there is none of it."""
    plain = teacher_model("qwen3")
    rope = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0, "original_max_position_embeddings": 20}
    scaled = teacher_model("qwen3", rope_parameters=rope)
    assert scaled.rotary_emb.attention_scaling > 1.1
    first = [Encoder(one, Reads(projections=frozenset({1})))(batch()) for one in (plain, scaled)]
    torch.testing.assert_close(first[0].query[1], first[1].query[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first[0].key[1], first[1].key[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", [*OTHERS, *UNKNOWN])
@torch.no_grad()
def test_a_cut_model_gives_what_the_whole_one_does(family):
    whole, cut = teacher_model(family), teacher_model(family)
    reads = Reads(frozenset({0, 2}), frozenset({1, 2}))
    encoder = Encoder(cut, reads)
    cut_layers(cut, 2)
    assert len(layers_of(cut)) == 2
    found, wanted = encoder(batch()), Encoder(whole, reads)(batch())
    for name in ("hidden_states", "query", "key", "value"):
        for number, tensor in getattr(wanted, name).items():
            torch.testing.assert_close(getattr(found, name)[number], tensor)


@pytest.mark.parametrize("family", [*OTHERS, *UNKNOWN])
def test_attention_of_the_last_layer_read_is_not_computed(family):
    model, ran = teacher_model(family), []
    encoder = Encoder(model, Reads(projections=frozenset({2})))
    for number, layer in enumerate(layers_of(model), start=1):
        layer.register_forward_hook(lambda *_, number=number: ran.append(number))
    encoder(batch())
    assert ran == [1]


@pytest.mark.parametrize("family", [*OTHERS, *UNKNOWN])
@pytest.mark.parametrize("attention", ["plain", "fused"])
@torch.no_grad()
def test_padding_changes_nothing(monkeypatch, family, attention):
    monkeypatch.setattr("pretrain.models.encoder.FASTEST_ATTENTION", attention)
    encoder, padded = Encoder(teacher_model(family), ALL), batch()
    alone = {name: tensor[1:2, :7] for name, tensor in padded.items()}
    found, wanted = encoder(padded), encoder(alone)
    for name in ("hidden_states", "query", "value"):
        torch.testing.assert_close(getattr(found, name)[4][1:2, :7], getattr(wanted, name)[4], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", [*(name for name in OTHERS if FAMILIES[name].takes_documents), *UNKNOWN])
@pytest.mark.parametrize("attention", ["plain", "fused"])
@torch.no_grad()
def test_documents_of_a_row_are_read_as_if_alone(monkeypatch, family, attention):
    monkeypatch.setattr("pretrain.models.encoder.FASTEST_ATTENTION", attention)
    encoder, row = Encoder(teacher_model(family), ALL), batch(1, padding=False)
    ids = torch.tensor([[0] * 5 + [1] * 7])
    positions = torch.tensor([[*range(5), *range(7)]])
    found = encoder(row | {"document_ids": ids, "position_ids": positions})
    for part in (slice(0, 5), slice(5, 12)):
        wanted = encoder({name: tensor[:, part] for name, tensor in row.items()})
        for name in ("hidden_states", "query", "value"):
            tensor = getattr(found, name)[4][:, part]
            torch.testing.assert_close(tensor, getattr(wanted, name)[4], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_masks_are_causal_where_the_model_was_trained_so():
    for family, sees_later in (("qwen3", False), ("gemma3_text", True), ("eurobert", True)):
        encoder, one = Encoder(teacher_model(family), Reads(frozenset({4}))), batch(padding=False)
        other = one | {"input_ids": one["input_ids"].clone()}
        other["input_ids"][:, -1] = 3
        before, after = (encoder(rows).hidden_states[4][:, -2] for rows in (one, other))
        assert torch.equal(before, after) != sees_later


def test_shapes_know_windows_heads_and_rotation():
    modern, qwen = (EncoderShape.of(teacher_model(name).config) for name in ("modernbert", "qwen3"))
    assert (modern.sliding_layers, modern.window, modern.is_rotary) == (frozenset({2, 3}), 3, True)
    assert [modern.full_layer(number) for number in (1, 2, 3, 4)] == [1, 1, 4, 4]
    assert (qwen.attention_size, qwen.hidden_size, qwen.num_token_types) == (32, 24, 1)
    assert not EncoderShape.of(teacher_model("megatron-bert").config).is_rotary


@pytest.mark.parametrize("family", UNKNOWN)
def test_a_family_that_is_not_known_by_name_is_checked_as_it_is_loaded(tmp_path, family):
    teacher_model(family).save_pretrained(tmp_path)
    load_encoder(str(tmp_path))


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("camembert", {}, "it does not number positions from 0"),
        (
            "gpt_oss",
            {"num_local_experts": 2, "num_experts_per_tok": 2, "head_dim": 8, "num_key_value_heads": 2},
            "its attention computes something that",
        ),
    ],
)
def test_a_family_that_computes_otherwise_is_refused(tmp_path, family, changes, message):
    """CamemBERT numbers positions after its padding id, as RoBERTa does; GPT-OSS has a sink for attention."""
    teacher_model(family, initializer_range=1.0, **changes).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"a {family} model cannot be read: {message}.*; known to work: bert, "):
        load_encoder(str(tmp_path))
