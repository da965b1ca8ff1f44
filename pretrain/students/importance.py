"""Which parts of a teacher matter, by what they compute on a sample of text (arXiv:2407.14679, 2408.11796).

Shapes: B rows, L tokens, D hidden width, H heads, E head width, I feed-forward width. What is measured of each token is
averaged over the real tokens of a row, and over rows its root of the sum of squares is taken.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from pretrain.models.encoder import HuggingFaceModel, real_tokens
from pretrain.models.pooling import pool
from pretrain.models.structure import layers_of
from pretrain.students.activations import watch


def important_layers(teacher: HuggingFaceModel, sample: Mapping[str, Tensor], num_layers: int) -> list[int]:
    """Return the numbers, from 1 and in order, of the layers that change their input most: mean 1 - cosine."""
    real = real_tokens(sample)
    changes: list[float] = []

    def see(module: nn.Module, before: Tensor, after: Tensor) -> None:
        changes.append(float(1 - nn.functional.cosine_similarity(before, after, dim=-1)[real].double().mean()))

    watch(teacher, sample, layers_of(teacher), see)
    return sorted(torch.tensor(changes).topk(num_layers).indices.add(1).tolist())


def important_channels(teacher: HuggingFaceModel, sample: Mapping[str, Tensor], width: int) -> Tensor:
    """Return a map [D, width] that keeps the coordinates of largest size after the layer norms of a BERT, in order."""
    sizes: list[Tensor] = []

    def see(module: nn.Module, before: Tensor, after: Tensor) -> None:
        sizes.append(_aggregate(after.abs(), sample))

    norms = [one for one in teacher.modules() if isinstance(one, nn.LayerNorm)]
    watch(teacher, sample, norms, see)
    chosen = torch.stack(sizes).sum(0).topk(width).indices.sort().values
    return torch.eye(len(sizes[0]))[:, chosen]


def head_sizes(
    teacher: HuggingFaceModel, layers: Sequence[HuggingFaceModel], sample: Mapping[str, Tensor]
) -> list[Tensor]:
    """Return the size [H] of what each head of some layers of a BERT gives to the linear layer after it."""
    num_heads = teacher.config.num_attention_heads
    after = [layer.attention.output.dense for layer in layers]
    return _sizes(teacher, sample, after, lambda given: given.unflatten(-1, (num_heads, -1)).norm(dim=-1))


def neuron_sizes(
    teacher: HuggingFaceModel, layers: Sequence[HuggingFaceModel], sample: Mapping[str, Tensor]
) -> list[Tensor]:
    """Return the size [I] of what each feed-forward neuron of some layers of a BERT gives to the layer after it."""
    return _sizes(teacher, sample, [layer.output.dense for layer in layers], torch.abs)


def _sizes(
    teacher: HuggingFaceModel,
    sample: Mapping[str, Tensor],
    modules: Sequence[nn.Module],
    measure: Callable[[Tensor], Tensor],
) -> list[Tensor]:
    """Return the size of the inputs of every module, as measured of each token [B, L, ..] to [B, L, parts]."""
    sizes: dict[nn.Module, Tensor] = {}

    def see(module: nn.Module, before: Tensor, after: Tensor) -> None:
        sizes[module] = _aggregate(measure(before), sample)

    watch(teacher, sample, modules, see)
    return [sizes[module] for module in modules]


def _aggregate(values: Tensor, sample: Mapping[str, Tensor]) -> Tensor:
    return pool(values, real_tokens(sample), "mean").square().sum(0).sqrt()
