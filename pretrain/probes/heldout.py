"""The relation loss on held-out text, for finished models and for students during training."""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from pretrain.elastic.subnetwork import Network
from pretrain.models.encoder import Encoder, Features, HuggingFaceModel, Reads, real_tokens, without_padding
from pretrain.models.shape import EncoderShape
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
    """Return, by name, the mean of QQ + KK + VV (MiniLMv2 equation 8) between the teacher and each model's last layer.

    If the teacher itself is among the models, its loss is 0. Relations are between all tokens of a row, or of a
    document if batches have `document_ids`.

    Args:
        teacher, models: in eval mode afterwards.
        batches: tensors [B, L] as for Encoder.forward. ValueError if there are none.
        dtype: the type of computation, by autocast.
    """
    target = EncoderShape.of(teacher.config)
    layer = published_teacher_layer(target)
    layers = {name: _last_full_layer(EncoderShape.of(model.config)) for name, model in models.items()}
    encoders = {name: _reader(model, layers[name]) for name, model in models.items() if model is not teacher}
    source = Encoder(teacher.eval(), Reads(projections=frozenset({layer})))
    num_heads = shared_relation_heads([target.attention_size, *(one.shape.attention_size for one in encoders.values())])
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


def _last_full_layer(shape: EncoderShape) -> int:
    """Return the last layer in which every token attends to all; in students that is the last."""
    return shape.full_layer(shape.num_layers)


def _reader(model: HuggingFaceModel, layer: int) -> Encoder:
    return Encoder(model.eval(), Reads(projections=frozenset({layer})))


def shared_relation_heads(widths: Iterable[int]) -> int:
    """Return R, the largest number of relation heads up to 48 that divides every width: comparisons need the same R."""
    width = math.gcd(*widths)
    return max(heads for heads in range(1, MAX_RELATION_HEADS + 1) if width % heads == 0)


def _projections(features: Features, layer: int) -> Projections:
    return features.query[layer], features.key[layer], features.value[layer]


def _relation_losses(teacher: Projections, student: Projections, batch: Mapping[str, Tensor], num_heads: int) -> Tensor:
    """Return QQ + KK + VV of one batch."""
    pairs = zip(teacher, student, strict=True)
    mask, documents = real_tokens(batch), batch.get("document_ids")
    losses = [relation_loss((a, a), (b, b), mask, num_heads, documents=documents) for a, b in pairs]
    return torch.stack(losses).sum()


class HeldoutRows:
    """Held-out rows and the teacher's q, k and v for them, computed once, so that the teacher may be cut afterwards.

    All are kept on the CPU. R is the same for all students.

    Args:
        batches: tensors [B, L], at least one batch, the same on every rank; rank r of W keeps every W-th.
        teacher: the uncut teacher, which runs now, on `device` and in `dtype` by autocast.
        student_widths: hidden widths of all students, which R must divide.
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
        self.num_relation_heads = shared_relation_heads([teacher.shape.attention_size, *student_widths])
        self._device, self._weights = device, torch.tensor([len(one["input_ids"]) for one in batches]).double()
        self._share = []
        for index in range(rank, len(batches), world_size):
            batch = without_padding(batches[index])
            with autocast(device, dtype):
                features = teacher(self._on_device(batch), Reads(projections=frozenset({layer})))
            wanted = tuple(tensor.cpu() for tensor in _projections(features, layer))
            self._share.append((index, batch, wanted))

    def losses(self, student: Network) -> Tensor:
        """Return QQ + KK + VV of each batch, float32 [batches], 0 for batches that other ranks keep."""
        layer = _last_full_layer(student.shape)
        losses = torch.zeros(len(self._weights))
        for index, batch, wanted in self._share:
            batch = self._on_device(batch)
            found = _projections(student(batch, Reads(projections=frozenset({layer}))), layer)
            query, key, value = (tensor.to(self._device) for tensor in wanted)
            losses[index] = _relation_losses((query, key, value), found, batch, self.num_relation_heads)
        return losses

    def mean(self, losses: Tensor) -> float:
        """Return the mean over rows of the losses [batches], summed over ranks."""
        return float(losses.double() @ self._weights / self._weights.sum())

    def _on_device(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.to(self._device) for name, tensor in batch.items()}
