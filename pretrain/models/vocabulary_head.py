"""The masked-language head of a Hugging Face model, split into transform and decoder for losses in chunks.

Shapes: D hidden width, E width of the word embeddings, V vocabulary.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoModelForPreTraining
from transformers.activations import ACT2FN

from pretrain.models.family import family_of


class VocabularyHead(nn.Module):
    """A head whose logits are transform(hidden) @ weight.T + bias; if tied, `weight` [V, E] is the word embeddings.

    Not an nn.Linear because the optimizer applies weight decay to those, and embeddings must not be decayed.

    Args:
        model: a model from AutoModelForMaskedLM; its encoder, `model.base_model`, is not part of this module.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.transform = _transform(model)  # [.., D] -> [.., E]
        decoder = model.get_output_embeddings()
        self.weight = decoder.weight
        if decoder.bias is None:
            self.register_buffer("bias", torch.zeros(len(decoder.weight)), persistent=False)
        else:
            self.bias = decoder.bias
        self._frozen_decoder: tuple[Tensor, Tensor] | None = None
        self._model = (model,)  # in a tuple it is not registered as a submodule: nothing is saved or moved twice

    @property
    def model(self) -> Any:
        """The whole model, encoder and head, as it is saved and published."""
        return self._model[0]

    @property
    def decoder(self) -> tuple[Tensor, Tensor]:
        """Weight [V, E] and bias [V] for losses. A frozen head's are converted to float32 once and kept."""
        if self.weight.requires_grad:
            return self.weight, self.bias
        if self._frozen_decoder is None or self._frozen_decoder[0].device != self.weight.device:
            self._frozen_decoder = self.weight.detach().float(), self.bias.detach().float()
        return self._frozen_decoder

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits [.., V] of hidden states [.., D], all at once: only for a few positions."""
        return nn.functional.linear(self.transform(hidden), self.weight, self.bias)


def _transform(model: Any) -> nn.Sequential:
    """Return what a head computes before its decoder. Raise ValueError if its modules are not known."""
    family = family_of(model.config.model_type)
    if family.head_dense is None or family.head_norm is None:
        return nn.Sequential()
    activation = "gelu" if family.head_activation is None else getattr(model.config, family.head_activation)
    try:
        dense, norm = model.get_submodule(family.head_dense), model.get_submodule(family.head_norm)
    except AttributeError as error:
        raise ValueError(
            f"the masked-language head of this {model.config.model_type} model is not made as transformers' is by "
            f"default: {error}"
        ) from error
    return nn.Sequential(dense, ACT2FN[activation], norm)


def auto_class_of(folder: Path) -> Any:
    """Return the class that loads all of a saved model: that of its heads for pretraining, AutoModel without."""
    names = AutoConfig.from_pretrained(folder).architectures or []
    kinds = {"ForMaskedLM": AutoModelForMaskedLM, "ForPreTraining": AutoModelForPreTraining}
    return next((kind for end, kind in kinds.items() if any(name.endswith(end) for name in names)), AutoModel)
