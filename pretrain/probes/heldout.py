"""The relation loss on text that nobody was trained on: of finished models, and of students while they train."""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from pretrain.models.encoder import (
    Encoder,
    EncoderShape,
    Features,
    HuggingFaceModel,
    Reads,
    real_tokens,
    without_padding,
)
from pretrain.objectives.relation_loss import relation_loss
from pretrain.objectives.relations import published_teacher_layer
from pretrain.precision import Dtype, autocast

MAX_RELATION_HEADS = 48  # MiniLMv2's for base models
Projections = tuple[Tensor, Tensor, Tensor]  # q, k, v [B, L, D] of one layer


@torch.no_grad()
def heldout_relation_losses(
    teacher: HuggingFaceModel,
    models: Mapping[str, HuggingFaceModel],
    batches: Iterable[Mapping[str, Tensor]],
    dtype: Dtype = "float32",
) -> dict[str, float]:
    """Mean of QQ + KK + VV (MiniLMv2 equation 8) from the teacher to each model's last layer, by name.

    The teacher itself, where it is among the models, has 0, at the layer that is read of it.

    Models run in eval mode and in `dtype` by autocast; `batches` are [B, L], at least one. Tokens of different
    documents in a row are compared too, whatever the models attend to.
    """
    target = EncoderShape.of(teacher.config)
    layer = published_teacher_layer(target)
    layers = {name: model.config.num_hidden_layers for name, model in models.items()}
    encoders = {name: _reader(model, layers[name]) for name, model in models.items() if model is not teacher}
    source = Encoder(teacher.eval(), Reads(projections=frozenset({layer})))
    num_heads = shared_relation_heads([target.hidden_size, *(one.shape.hidden_size for one in encoders.values())])
    sums, count = dict.fromkeys(models, 0.0), 0
    for batch in batches:
        batch, count = without_padding(batch), count + 1
        with autocast(batch["input_ids"].device, dtype):
            wanted = _projections(source(batch), layer)
            found = {name: _projections(one(batch), layers[name]) for name, one in encoders.items()}
        for name, projections in found.items():
            sums[name] += float(_relation_losses(wanted, projections, batch, num_heads))
    if not count:
        raise ValueError("no held-out rows to compare relations on")
    return {name: value / count for name, value in sums.items()}


def _reader(model: HuggingFaceModel, layer: int) -> Encoder:
    return Encoder(model.eval(), Reads(projections=frozenset({layer})))


def shared_relation_heads(widths: Iterable[int]) -> int:
    """R: the largest number of relation heads up to 48 that divides every width, so that models can be compared."""
    width = math.gcd(*widths)
    return max(heads for heads in range(1, MAX_RELATION_HEADS + 1) if width % heads == 0)


def _projections(features: Features, layer: int) -> Projections:
    return features.query[layer], features.key[layer], features.value[layer]


def _relation_losses(teacher: Projections, student: Projections, batch: Mapping[str, Tensor], num_heads: int) -> Tensor:
    """QQ + KK + VV of one batch."""
    pairs = zip(teacher, student, strict=True)
    losses = [relation_loss((a, a), (b, b), real_tokens(batch), num_heads) for a, b in pairs]
    return torch.stack(losses).sum()


class HeldoutRows:
    """Held-out rows with the q, k, v that a whole teacher gives, read once: afterwards it may be cut below that layer.

    All of it waits on the CPU. R is the same for all students whose widths are given, and tokens of different documents
    are compared too, as above.

    Args:
        batches: [B, L], at least one, the same on every rank; rank r of W keeps every W-th.
        teacher: reads them now, on `device`, in `dtype` by autocast.
    """

    @torch.no_grad()
    def __init__(
        self,
        batches: Sequence[Mapping[str, Tensor]],
        teacher: Encoder,
        student_widths: Iterable[int],
        device: torch.device,
        dtype: Dtype,
        rank: int,
        world_size: int,
    ) -> None:
        layer = published_teacher_layer(teacher.shape)
        self.num_relation_heads = shared_relation_heads([teacher.shape.hidden_size, *student_widths])
        self._device, self._weights = device, torch.tensor([len(one["input_ids"]) for one in batches]).double()
        self._share = []
        for index in range(rank, len(batches), world_size):
            batch = without_padding(batches[index])
            with autocast(device, dtype):
                features = teacher(self._on_device(batch), Reads(projections=frozenset({layer})))
            wanted = tuple(tensor.cpu() for tensor in _projections(features, layer))
            self._share.append((index, batch, wanted))

    def losses(self, student: Encoder) -> Tensor:
        """QQ + KK + VV of each batch, float32 [batches], 0 where another rank keeps it."""
        layer = student.shape.num_layers
        losses = torch.zeros(len(self._weights))
        for index, batch, wanted in self._share:
            batch = self._on_device(batch)
            found = _projections(student(batch, Reads(projections=frozenset({layer}))), layer)
            query, key, value = (tensor.to(self._device) for tensor in wanted)
            losses[index] = _relation_losses((query, key, value), found, batch, self.num_relation_heads)
        return losses

    def mean(self, losses: Tensor) -> float:
        """Over rows, of every rank's batches [batches]."""
        return float(losses.double() @ self._weights / self._weights.sum())

    def _on_device(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.to(self._device) for name, tensor in batch.items()}
