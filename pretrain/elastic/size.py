"""A size of an elastic student: how many of its layers are kept, and how many neurons of each feed-forward layer."""

import re
from dataclasses import dataclass, replace
from typing import Any

from transformers import AutoConfig

from pretrain.models.shape import EncoderShape


@dataclass(frozen=True, order=True)
class Size:
    """So many layers with feed-forward layers of so many neurons; written 2x600."""

    num_layers: int
    feed_forward: int

    def __str__(self) -> str:
        return f"{self.num_layers}x{self.feed_forward}"

    @classmethod
    def of(cls, shape: EncoderShape) -> "Size":
        """Return the size of a whole encoder."""
        return cls(shape.num_layers, shape.intermediate_size)

    @classmethod
    def parse(cls, text: str) -> "Size":
        """Return the size that is written as 2x600. Raise ValueError for anything else."""
        if not (found := re.fullmatch(r"(\d+)x(\d+)", text)):
            raise ValueError(f"size {text!r}: wanted LAYERSxFEED_FORWARD, such as 2x600")
        return cls(*map(int, found.groups()))


def kept_layers(num_layers: int, depth: int) -> list[int]:
    """Return the layers, from 0, that a sub-network of `depth` layers keeps: the last one of every equal share.

    So the last layer is always kept, and where the depth divides the number of layers, a kept layer has the same
    teacher layer in a uniform layer map at every depth: layers 2 and 4 of 4 learn from layers 6 and 12 of 12.
    """
    return [(share + 1) * num_layers // depth - 1 for share in range(depth)]


def cut_config(config: Any, size: Size) -> Any:
    """Return the Hugging Face config of a sub-network: an ordinary one of its family."""
    values = config.to_dict() | {"num_hidden_layers": size.num_layers, "intermediate_size": size.feed_forward}
    if kinds := values.get("layer_types"):
        values["layer_types"] = [kinds[layer] for layer in kept_layers(config.num_hidden_layers, size.num_layers)]
    return AutoConfig.for_model(**values)


def cut_shape(shape: EncoderShape, size: Size) -> EncoderShape:
    """Return the sizes of a sub-network."""
    kept = enumerate(kept_layers(shape.num_layers, size.num_layers), start=1)
    sliding = frozenset(number for number, layer in kept if layer + 1 in shape.sliding_layers)
    return replace(shape, num_layers=size.num_layers, intermediate_size=size.feed_forward, sliding_layers=sliding)
