"""What an encoder costs by its sizes: parameters, and operations of a token's forward pass.

A multiplication and an addition are two operations. L tokens of a row, D hidden width, A width of all heads.
"""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModel

from pretrain.models.encoder import Reads
from pretrain.models.shape import EncoderShape
from pretrain.models.structure import layers_of


@dataclass(frozen=True)
class EncoderCost:
    """The sizes that decide what an encoder costs, without a head and a pooler.

    Attributes:
        attention_size: A.
        layer_weights: numbers in the matrices of a layer, by which every token is multiplied.
        layer_parameters: all numbers of the last layer.
        in_layers: parameters of all layers: N of the law.
        embedding_parameters: all that no layer holds.
        own_layers: layers that have weights of their own; 1 where all layers share theirs (ALBERT).
    """

    num_ids: int
    num_layers: int
    hidden_size: int
    attention_size: int
    layer_weights: int
    layer_parameters: int
    in_layers: int
    embedding_parameters: int
    own_layers: int

    @classmethod
    def of_bert(
        cls, num_layers: int, width: int, inner: int, vocab_size: int, num_positions: int = 512, num_types: int = 2
    ) -> "EncoderCost":
        """Return the cost of a BERT of these sizes."""
        weights = 4 * width**2 + 2 * width * inner
        layer, embeddings = weights + 9 * width + inner, (vocab_size + num_positions + num_types + 2) * width
        return cls(vocab_size, num_layers, width, width, weights, layer, num_layers * layer, embeddings, num_layers)

    @classmethod
    def of_config(cls, config: Any) -> "EncoderCost":
        """Return the cost of the encoder that a Hugging Face config describes; no weights are made."""
        shape = EncoderShape.of(config)
        with torch.device("meta"):
            model = AutoModel.from_config(config)
        if hasattr(model, "pooler"):
            model.pooler = None
        layers = layers_of(model)
        inside = [sum(one.numel() for one in layer.parameters()) for layer in layers]
        return cls(
            shape.vocab_size,
            shape.num_layers,
            shape.hidden_size,
            shape.attention_size,
            sum(one.numel() for one in layers[-1].parameters() if one.ndim == 2),
            inside[-1],
            sum(inside),
            sum(one.numel() for one in model.parameters()) - sum(inside),
            len(layers),
        )

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.embedding_parameters + self.in_layers

    def reached_parameters(self, reads: Reads) -> int:
        """Return the parameters on which what is read depends: those that are trained, or kept of a teacher."""
        above = max(self.own_layers - _whole_layers(reads), 0)
        last = 3 * (self.hidden_size + 1) * self.attention_size if above and _ends_in_projections(reads) else 0
        return self.parameters - above * self.layer_parameters + last

    def operations(self, reads: Reads, row_tokens: int) -> float:
        """Return the operations of a token's forward pass up to the last thing that is read."""
        whole = 2 * self.layer_weights + 4 * row_tokens * self.attention_size
        last = 2 * 3 * self.hidden_size * self.attention_size if _ends_in_projections(reads) else 0
        return _whole_layers(reads) * whole + last


def _ends_in_projections(reads: Reads) -> bool:
    """Return whether only queries, keys and values of the highest layer are read, so that its rest never runs."""
    return reads.num_layers > 0 and reads.num_layers not in reads.hidden_states and not reads.logits


def _whole_layers(reads: Reads) -> int:
    return reads.num_layers - _ends_in_projections(reads)
