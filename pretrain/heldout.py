"""The relation loss of finished models on text that none of them was trained on."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from pretrain.encoder import Encoder, EncoderShape, HuggingFaceModel, Reads, real_tokens, without_padding
from pretrain.relation_objectives import published_teacher_layer
from pretrain.relations import relation_loss

MAX_RELATION_HEADS = 48  # MiniLMv2's for base models


@torch.no_grad()
def heldout_relation_losses(
    teacher: HuggingFaceModel, models: Mapping[str, HuggingFaceModel], batches: Iterable[Mapping[str, Tensor]]
) -> dict[str, float]:
    """Mean of QQ + KK + VV (MiniLMv2 equation 8) from the teacher to each model's last layer, by name.

    Models run in eval mode and in bfloat16 where autocast does so; `batches` are [B, L], at least one.
    R is the largest number of relation heads up to 48 that divides every width, so that the models can be compared.
    """
    encoders = {name: _last_layer_reader(model) for name, model in models.items()}
    target = EncoderShape.of(teacher.config)
    layer = published_teacher_layer(target)
    source = Encoder(teacher.eval(), Reads(projections=frozenset({layer})))
    width = math.gcd(target.hidden_size, *(one.shape.hidden_size for one in encoders.values()))
    num_heads = max(heads for heads in range(1, MAX_RELATION_HEADS + 1) if width % heads == 0)
    sums, count = dict.fromkeys(models, 0.0), 0
    for batch in batches:
        batch, count = without_padding(batch), count + 1
        with torch.autocast(batch["input_ids"].device.type, torch.bfloat16):
            wanted = source(batch)
            found = {name: encoder(batch) for name, encoder in encoders.items()}
        for name, features in found.items():
            for projection in ("query", "key", "value"):
                a = getattr(wanted, projection)[layer]
                b = getattr(features, projection)[encoders[name].shape.num_layers]
                sums[name] += float(relation_loss((a, a), (b, b), real_tokens(batch), num_heads))
    if not count:
        raise ValueError("no held-out rows to compare relations on")
    return {name: value / count for name, value in sums.items()}


def _last_layer_reader(model: HuggingFaceModel) -> Encoder:
    return Encoder(model.eval(), Reads(projections=frozenset({model.config.num_hidden_layers})))
