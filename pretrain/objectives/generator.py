"""ELECTRA's generator (arXiv:2003.10555): a small masked-language model that shares the student's embeddings.

Shapes: B rows, L tokens, E width of the embeddings, V vocabulary.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import AutoModel

from pretrain.models.encoder import Encoder, HuggingFaceModel, Reads
from pretrain.settings import Settings

Ratio = Annotated[float, Field(gt=0, le=1)]


class GeneratorConfig(Settings):
    """Sizes of the generator as shares of the student's; a quarter of the width is ELECTRA-small's and -large's."""

    width_ratio: Ratio = 0.25  # of the width, the heads and the feed-forward layers
    layer_ratio: Ratio = 1.0

    def hugging_face_config(self, student: Any) -> Any:
        """Return the generator's Hugging Face config; its width is the nearest multiple of its heads."""
        config = deepcopy(student)
        heads = max(1, int(self.width_ratio * student.num_attention_heads))
        config.num_attention_heads = heads
        config.hidden_size = heads * max(1, round(self.width_ratio * student.hidden_size / heads))
        config.intermediate_size = max(1, round(self.width_ratio * student.intermediate_size))
        config.num_hidden_layers = max(1, round(self.layer_ratio * student.num_hidden_layers))
        return config


class Generator(nn.Module):
    """An encoder of the student's family on the student's own embeddings, and a head tied to the word embeddings.

    Embeddings of tokens, positions and types and their normalisation are the student's modules. Families whose layers
    have the embeddings' width get a linear map between the two widths.

    Args:
        model: the student's encoder.
    """

    def __init__(self, config: GeneratorConfig, model: HuggingFaceModel) -> None:
        super().__init__()
        own = config.hugging_face_config(model.config)
        encoder = AutoModel.from_config(own, dtype=torch.float32)
        encoder.pooler = None
        num_words, width = model.get_input_embeddings().weight.shape
        is_factorised = getattr(own, "embedding_size", None) is not None
        encoder.embeddings = model.embeddings if is_factorised else _Narrowed(model.embeddings, width, own.hidden_size)
        self.layer = own.num_hidden_layers
        self.encoder = Encoder(encoder, Reads(hidden_states=frozenset({self.layer})))
        norm = nn.LayerNorm(width, eps=own.layer_norm_eps)
        self.transform = nn.Sequential(nn.Linear(own.hidden_size, width), nn.GELU(), norm)
        self.bias = nn.Parameter(torch.zeros(num_words))

    def forward(self, batch: Mapping[str, Tensor], places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the decoder's input states [N, E] at N of the B x L tokens, its weight [V, E] and its bias [V]."""
        states = self.encoder(batch).hidden_states[self.layer].flatten(0, 1).index_select(0, places)
        return self.transform(states), self.encoder.model.get_input_embeddings().weight, self.bias


class _Narrowed(nn.Module):
    """Embeddings [B, L, E] through a linear map to another width."""

    def __init__(self, embeddings: nn.Module, width: int, narrow_width: int) -> None:
        super().__init__()
        self.embeddings, self.map = embeddings, nn.Linear(width, narrow_width)

    @property
    def word_embeddings(self) -> nn.Module:
        """The table of the tokens' embeddings, where transformers looks for it."""
        return self.embeddings.get_submodule("word_embeddings")

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return what the first layer reads."""
        narrow: Tensor = self.map(self.embeddings(*args, **kwargs))
        return narrow
