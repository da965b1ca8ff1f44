"""Parameters are those of the models, operations those that a hand counts."""

import pytest

from launch.planning.encoder_cost import EncoderCost
from pretrain.models.encoder import Reads
from tests.pretrain.tiny import VOCAB, teacher_model

STATES, PROJECTIONS = Reads(hidden_states=frozenset({0, 2})), Reads(projections=frozenset({2}))


@pytest.mark.parametrize("family", ["bert", "modernbert", "albert", "electra", "qwen3"])
def test_parameters_are_those_of_the_model(family):
    model = teacher_model(family)
    model.pooler = None
    cost = EncoderCost.of_config(model.config)
    assert cost.parameters == sum(one.numel() for one in model.parameters())
    assert cost.num_layers == model.config.num_hidden_layers
    assert cost.own_layers == (1 if family == "albert" else cost.num_layers)


def test_sizes_of_a_bert_need_no_config():
    config = teacher_model().config
    assert EncoderCost.of_config(config) == EncoderCost.of_bert(4, 24, 32, VOCAB, 40)


def test_operations_of_a_tiny_model_by_hand():
    """A layer of 24 with 32 inside: four products of 24 x 24, two of 24 x 32; attention reads 10 tokens twice."""
    cost = EncoderCost.of_config(teacher_model().config)
    layer = 2 * (4 * 24 * 24 + 2 * 24 * 32) + 2 * 10 * 24 + 2 * 10 * 24
    assert cost.operations(STATES, 10) == 2 * layer
    assert cost.operations(PROJECTIONS, 10) == layer + 2 * 3 * 24 * 24, "of the last layer q, k and v alone"
    assert cost.operations(Reads(hidden_states=frozenset({0})), 10) == 0


def test_only_what_is_reached_is_trained():
    cost = EncoderCost.of_config(teacher_model().config)
    assert cost.reached_parameters(Reads(hidden_states=frozenset({4}))) == cost.parameters
    wanted = cost.embedding_parameters + cost.layer_parameters + 3 * (24 * 24 + 24)
    assert cost.reached_parameters(PROJECTIONS) == wanted
    shared = EncoderCost.of_config(teacher_model("albert").config)
    assert shared.reached_parameters(PROJECTIONS) == shared.parameters
