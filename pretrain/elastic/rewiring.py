"""Rewiring (DynaBERT, arXiv:2004.04037): neurons sorted by importance, so that the first ones are the best to keep.

The importance of a neuron is the first-order change of the loss if it is taken away, |dL/dg| for a gate g = 1 that
multiplies its activation (arXiv:1905.10650). The loss is the objectives' own: no labels are needed. As the output
layer has the weights W [D, I], dL/dg_j is the sum over i of W_ij dL/dW_ij.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from pretrain.elastic.slices import Neurons, find_neurons
from pretrain.models.encoder import HuggingFaceModel
from pretrain.models.structure import layers_of

_SAME = 1e-3  # of the largest state: more is another function


class Importance:
    """The importance of every neuron [I] of each layer, summed over the batches whose gradients are added."""

    def __init__(self, model: HuggingFaceModel) -> None:
        self._layers = [
            [parameter for parameter, neurons in layer if parameter.dim() == 2 and neurons.dim == 1]
            for layer in _neurons_of(model)
        ]
        self.layers = [torch.zeros(model.config.intermediate_size) for _ in self._layers]

    @torch.no_grad()
    def add(self) -> None:
        """Add the gradients of a batch's loss, which the model's parameters hold. They must be of this batch alone."""
        for total, parameters in zip(self.layers, self._layers, strict=True):
            for weight in parameters:
                if weight.grad is not None:  # else no objective reads what this layer computes
                    total += (weight * weight.grad).sum(0).abs().cpu()


@torch.no_grad()
def rewire(model: HuggingFaceModel, importance: Sequence[Tensor]) -> None:
    """Sort the neurons of each layer by importance [I], the most important first. The model computes what it did.

    Raise ValueError if it does not: then its feed-forward layers are not made as is known.
    """
    before = _states(model)
    for layer, scores in zip(_neurons_of(model), importance, strict=True):
        order = scores.argsort(descending=True, stable=True)
        for parameter, neurons in layer:
            parameter.copy_(neurons.sorted(parameter, order.to(parameter.device)))
    after = _states(model)
    if not (after - before).abs().max() <= _SAME * before.abs().max():
        raise ValueError(
            f"elastic.feed_forward: neurons of a {model.config.model_type} model cannot be sorted without changing "
            "what it computes; leave it out, and use depths"
        )


def _neurons_of(model: HuggingFaceModel) -> Iterator[list[tuple[nn.Parameter, Neurons]]]:
    """Yield for each layer its parameters that run over neurons."""
    places, base = find_neurons(model.config), model.base_model
    found = {id(one): (one, places[name]) for name, one in base.named_parameters() if name in places}
    for layer in layers_of(base):
        yield [found[id(one)] for one in layer.parameters() if id(one) in found]


def _states(model: HuggingFaceModel) -> Tensor:
    """Return the last hidden states of a few tokens."""
    base, training = model.base_model, model.training
    ids = torch.arange(16, device=next(base.parameters()).device).view(2, 8) % model.config.vocab_size
    states: Tensor = base.eval()(input_ids=ids).last_hidden_state
    model.train(training)
    return states
