"""A sub-network is the ordinary smaller model, in every family: what is trained, masked and cut out is one function."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification

from pretrain.elastic.rewiring import Importance, rewire
from pretrain.elastic.size import Size, cut_config, cut_shape, kept_layers
from pretrain.elastic.slices import cut_model, find_neurons
from pretrain.elastic.subnetwork import SubNetwork
from pretrain.models.encoder import Encoder, Reads
from pretrain.models.family import FAMILIES
from pretrain.models.shape import EncoderShape
from pretrain.models.structure import layer_stack
from tests.pretrain.tiny import batch, teacher_model

SMALL = Size(2, 20)
READS = Reads(frozenset({0, 1, 2}), frozenset({1, 2}))


def draw_weights(model: Any) -> Any:
    """Weights all different from 0 and 1, norms and biases too."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_cut_model_computes_what_the_slice_does(family, tmp_path):
    model = draw_weights(teacher_model(family))
    live = SubNetwork(Encoder(model, Reads()), SMALL).eval()
    cut_model(model, SMALL).save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    assert (loaded.config.num_hidden_layers, loaded.config.intermediate_size) == (2, 20)
    assert live.shape == EncoderShape.of(loaded.config) == cut_shape(EncoderShape.of(model.config), SMALL)
    found, wanted = live(batch(), READS), Encoder(loaded, READS)(batch())
    for name in ("hidden_states", "query", "key", "value"):
        for layer, tensor in getattr(wanted, name).items():
            assert torch.equal(getattr(found, name)[layer], tensor), (name, layer)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_narrower_model_computes_what_the_whole_does_without_these_neurons(family):
    """Without in the whole model: the columns of its output layers are zero."""
    model = draw_weights(teacher_model(family))
    narrow = cut_model(model, Size(4, 20))
    outputs = {name for name, place in find_neurons(model.config).items() if place.dim == 1}
    assert len(outputs) == (1 if FAMILIES[family].shares_layers else 4)
    for name, parameter in model.named_parameters():
        if name in outputs:
            parameter[:, 20:] = 0
    given = {"input_ids": batch()["input_ids"], "attention_mask": batch()["attention_mask"]}
    found, wanted = (one.eval()(**given).last_hidden_state for one in (narrow, model))
    real = given["attention_mask"].bool()
    torch.testing.assert_close(found[real], wanted[real], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_rewiring_changes_no_output(family):
    model = draw_weights(teacher_model(family))
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    wanted = model(**batch_of(model)).last_hidden_state
    num_layers = len(Importance(model).layers)
    rewire(model, [torch.randn(32, generator=torch.Generator().manual_seed(n)) for n in range(num_layers)])
    found = model(**batch_of(model)).last_hidden_state
    assert (found - wanted).abs().max() < 1e-5 * max(1.0, float(wanted.abs().max()))
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == find_neurons(model.config).keys()


def batch_of(model: Any) -> dict[str, Any]:
    return {"input_ids": batch()["input_ids"]}


@pytest.mark.parametrize("auto_class", [AutoModelForMaskedLM, AutoModelForSequenceClassification])
@torch.no_grad()
def test_a_cut_model_keeps_its_head(auto_class, tmp_path):
    model = draw_weights(teacher_model("modernbert", auto_class))
    cut_model(model, SMALL).save_pretrained(tmp_path)
    loaded = auto_class.from_pretrained(tmp_path).eval()
    base = AutoModel.from_pretrained(tmp_path).eval()
    given = batch_of(model)
    live = SubNetwork(Encoder(model.base_model, Reads()), SMALL).eval()
    states = live(given, Reads(frozenset({2}))).hidden_states[2]
    torch.testing.assert_close(base(**given).last_hidden_state, states, rtol=1e-5, atol=1e-5)
    for name in ("head.dense.weight", "head.norm.weight"):
        assert torch.equal(loaded.get_parameter(name), model.get_parameter(name))


@pytest.mark.parametrize(
    ("num_layers", "depth", "kept"),
    [(4, 4, [0, 1, 2, 3]), (4, 2, [1, 3]), (4, 3, [0, 1, 3]), (12, 6, [1, 3, 5, 7, 9, 11]), (6, 1, [5])],
)
def test_the_last_layer_of_every_share_is_kept(num_layers, depth, kept):
    assert kept_layers(num_layers, depth) == kept


def test_a_kept_layer_keeps_its_window():
    model = teacher_model("gemma3_text")
    kinds = cut_config(model.config, SMALL).layer_types
    assert kinds == [model.config.layer_types[layer] for layer in (1, 3)]
    assert len(set(model.config.layer_types)) == 2


def test_layers_of_the_cut_are_those_that_are_kept():
    model = teacher_model()
    cut = cut_model(model, Size(2, 32))
    for found, number in zip(layer_stack(cut), (1, 3), strict=True):
        theirs = dict(layer_stack(model)[number].named_parameters())
        assert all(torch.equal(parameter, theirs[name]) for name, parameter in found.named_parameters())


def test_a_family_whose_layers_do_not_follow_the_width_is_refused():
    config = AutoConfig.for_model("gpt2", n_embd=16, n_layer=1, n_head=2, vocab_size=40)
    with pytest.raises(ValueError, match="no weight of a gpt2 model follows its intermediate_size"):
        find_neurons(config)


@pytest.mark.parametrize("text", ["", "2", "x600", "2x", "2x600x3", "-2x600", "2 x 600"])
def test_a_size_is_written_as_layers_and_neurons(text):
    assert str(Size.parse("2x600")) == "2x600"
    with pytest.raises(ValueError, match=r"wanted LAYERSxFEED_FORWARD, such as 2x600"):
        Size.parse(text)
