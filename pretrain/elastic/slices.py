"""Which part of which weight of a whole model a sub-network consists of: views to train, and copies to publish.

Where the neurons of feed-forward layers are is not looked up by names of modules. It is read from the shapes of the
parameters, as those that change with the width of the feed-forward layers. So it is known for gated ones too, and
for every family whose config has an `intermediate_size` that its layers follow.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel

from pretrain.elastic.size import Size, cut_config, kept_layers
from pretrain.models.encoder import HuggingFaceModel
from pretrain.models.structure import layer_stack


@dataclass(frozen=True)
class Neurons:
    """Where the neurons of a feed-forward layer are in a parameter.

    Attributes:
        dim: the dimension that runs over neurons.
        parts: how many times it does: twice in a linear layer that computes a gate and its input at once.
    """

    dim: int
    parts: int

    def first(self, parameter: Tensor, count: int) -> Tensor:
        """Return the part of a parameter that belongs to the first `count` neurons, as a view where `parts` is 1."""
        return self._apart(parameter).narrow(self.dim + 1, 0, count).flatten(self.dim, self.dim + 1)

    def sorted(self, parameter: Tensor, order: Tensor) -> Tensor:
        """Return a copy of a parameter with its neurons in another order."""
        return self._apart(parameter).index_select(self.dim + 1, order).flatten(self.dim, self.dim + 1)

    def _apart(self, parameter: Tensor) -> Tensor:
        return parameter.unflatten(self.dim, (self.parts, -1))


def find_neurons(config: Any) -> dict[str, Neurons]:
    """Return where the neurons of feed-forward layers are, by the names of an encoder's parameters.

    Raise ValueError if the parameters of this family do not follow `intermediate_size`, or in an unknown way.
    """
    found: dict[str, Neurons] = {}
    width = getattr(config, "intermediate_size", None) or 0
    own, wider = (_shapes(config, one) if width else {} for one in (width, width + 1))
    for name, shape in own.items():
        for dim, (size, other) in enumerate(zip(shape, wider[name], strict=True)):
            if size == other:
                continue
            if name in found or size != (other - size) * width:
                raise ValueError(f"the neurons of {name} in a {config.model_type} model are not where they are known")
            found[name] = Neurons(dim, other - size)
    if not found:
        raise ValueError(f"no weight of a {config.model_type} model follows its intermediate_size")
    return found


def _shapes(config: Any, width: int) -> dict[str, torch.Size]:
    with torch.device("meta"):  # shapes alone
        model = AutoModel.from_config(AutoConfig.for_model(**config.to_dict() | {"intermediate_size": width}))
    return {name: parameter.shape for name, parameter in model.named_parameters()}


class Cut:
    """A sub-network of a model: its config, and each of its tensors as a part of one of the whole model's.

    Args:
        model: a Hugging Face encoder, or a model that contains one.
    """

    def __init__(self, model: HuggingFaceModel, size: Size) -> None:
        base = model.base_model
        self.config, self._size = cut_config(model.config, size), size
        self._prefix = "" if base is model else f"{model.base_model_prefix}."
        stack = layer_stack(base)
        names = [name for name, module in base.named_modules() if module is stack]
        self._layer = re.compile(rf"^({re.escape(names[0])}\.)(\d+)(?=\.)") if names else None  # none in ALBERT
        self._kept = kept_layers(model.config.num_hidden_layers, size.num_layers)
        is_narrower = size.feed_forward < model.config.intermediate_size
        self._neurons = find_neurons(model.config) if is_narrower else {}

    def source(self, name: str) -> str:
        """Return the name in the whole model of what is called `name` in the sub-network."""
        if self._layer is None or not name.startswith(self._prefix):
            return name
        renamed = self._layer.sub(
            lambda found: f"{found[1]}{self._kept[int(found[2])]}", name.removeprefix(self._prefix), count=1
        )
        return self._prefix + renamed

    def take(self, name: str, whole: Mapping[str, Tensor]) -> Tensor:
        """Return the sub-network's tensor `name` from those of the whole model: the tensor itself, or a view of it."""
        source = self.source(name)
        neurons = self._neurons.get(source.removeprefix(self._prefix))
        return neurons.first(whole[source], self._size.feed_forward) if neurons else whole[source]


def tensors_of(model: HuggingFaceModel) -> dict[str, Tensor]:
    """Return all parameters and buffers of a model by name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def empty_model(model: HuggingFaceModel, config: Any) -> HuggingFaceModel:
    """Return a model of the same class with another config and random weights, without a pooler if it has none."""
    made = type(model)(config)
    if getattr(model.base_model, "pooler", None) is None and hasattr(made.base_model, "pooler"):
        made.base_model.pooler = None
    return made


@torch.no_grad()
def cut_model(model: HuggingFaceModel, size: Size) -> HuggingFaceModel:
    """Return a sub-network as a model of its own, with copies of the weights."""
    cut, whole = Cut(model, size), tensors_of(model)
    made = empty_model(model, cut.config)
    for name, parameter in made.named_parameters():
        parameter.copy_(cut.take(name, whole))
    return made.train(model.training)
