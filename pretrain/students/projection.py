"""Projection of a wider teacher's layers to a student's width.

Shapes: N tokens of text; teacher and student have hidden widths D and d, head widths E and e, feed-forward widths I and
i; H heads. A student's vector is the teacher's times `basis` [D, d], whose columns are orthonormal, so a teacher's
matrix W becomes basis^T W basis.

* Attention keeps the heads with the largest map to the output, or the largest output on text. A head's scores are a
  bilinear form of rank E and its output is a linear map of rank E: both are truncated to rank e by their singular
  values, the best approximation over all inputs.
* The feed-forward keeps the neurons that contribute most to the student's part of the residual stream on text, or those
  that are most active; the mean contribution of the others is added to the bias.
* A rotation and the elementwise gain of a layer norm do not commute, so gain and bias of every coordinate are fitted by
  least squares on text, in the layers and in the embeddings.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from pretrain.models.encoder import HuggingFaceModel, real_tokens
from pretrain.students.activations import watch
from pretrain.students.importance import head_sizes, neuron_sizes


@torch.no_grad()
def project_layers(
    model: HuggingFaceModel,
    teacher: HuggingFaceModel,
    layers: Sequence[int],
    basis: Tensor,
    sample: Mapping[str, Tensor],
    active: Collection[str] = (),
) -> None:
    """Set the student's layers, and its embeddings' norm, from layers of a wider teacher.

    Args:
        model, teacher: Hugging Face encoders; the student's is changed.
        layers: numbers, from 1, of a teacher layer for each student layer.
        basis: the map of the embeddings [D, d], with orthonormal columns.
        sample: a batch of text [B, L] on which norms and biases are fitted.
        active: which of "heads" and "neurons" are chosen by their activations on text.
    """
    chosen = [teacher.encoder.layer[number - 1] for number in layers]
    records = _run(teacher, sample, [*_norms(teacher, chosen), *(layer.output.dense for layer in chosen)])
    heads = head_sizes(teacher, chosen, sample) if "heads" in active else [None] * len(chosen)
    neurons = neuron_sizes(teacher, chosen, sample) if "neurons" in active else [None] * len(chosen)
    for index, (student, layer) in enumerate(zip(model.encoder.layer, chosen, strict=True)):
        _project_attention(student.attention, layer.attention, basis, heads[index])
        _project_feed_forward(student, layer, basis, records[layer.output.dense][0], neurons[index])
    # From the bottom up, each on the input that the student's layers below give it
    norms = zip(_norms(model, model.encoder.layer), _norms(teacher, chosen), strict=True)
    for student_norm, teacher_norm in norms:
        inputs, _ = _run(model, sample, [student_norm])[student_norm]
        _fit_norm(student_norm, inputs, records[teacher_norm][1] @ basis)


def _norms(model: HuggingFaceModel, layers: Iterable[HuggingFaceModel]) -> list[nn.LayerNorm]:
    """Return the layer norms of the embeddings and of these layers, in the order of computation."""
    pairs = ((layer.attention.output.LayerNorm, layer.output.LayerNorm) for layer in layers)
    return [model.embeddings.LayerNorm, *chain.from_iterable(pairs)]


def _run(
    model: HuggingFaceModel, sample: Mapping[str, Tensor], modules: Sequence[nn.Module]
) -> dict[nn.Module, tuple[Tensor, Tensor]]:
    """Return the input and the output of each module for the real tokens of the sample, each [N, ..]."""
    real = real_tokens(sample)
    records: dict[nn.Module, tuple[Tensor, Tensor]] = {}
    watch(model, sample, modules, lambda module, before, after: records.update({module: (before[real], after[real])}))
    return records


def _project_attention(
    student: HuggingFaceModel, teacher: HuggingFaceModel, basis: Tensor, sizes: Tensor | None
) -> None:
    num_heads, num_wanted = teacher.self.num_attention_heads, student.self.num_attention_heads
    query, key, value = (_heads(getattr(teacher.self, name), basis, num_heads) for name in ("query", "key", "value"))
    # [H, E, d]: the output of each head in the student's coordinates
    output = (basis.T @ teacher.output.dense.weight).unflatten(1, (num_heads, -1)).permute(1, 2, 0)
    sizes = (output.mT @ value).square().sum((1, 2)) if sizes is None else sizes
    heads = sizes.topk(num_wanted).indices.sort().values.tolist()
    width = student.self.attention_head_size
    # Scores are divided by the root of the head's width, which has changed.
    balance = (width / query.shape[1]) ** 0.25
    pairs = [_truncate(query[head], key[head], width) for head in heads]
    _set(student.self.query, torch.cat([a for a, _ in pairs]) * balance)
    _set(student.self.key, torch.cat([b for _, b in pairs]) * balance)
    pairs = [_truncate(output[head], value[head], width) for head in heads]
    _set(student.self.value, torch.cat([b for _, b in pairs]))
    student.output.dense.weight.copy_(torch.cat([a for a, _ in pairs]).T)
    student.output.dense.bias.copy_(teacher.output.dense.bias @ basis)


def _heads(linear: nn.Linear, basis: Tensor, num_heads: int) -> Tensor:
    """Return the weights of each head for the student's vectors, with the bias as last column: [H, E, d + 1]."""
    return torch.cat([linear.weight @ basis, linear.bias.unsqueeze(1)], 1).unflatten(0, (num_heads, -1))


def _truncate(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return factors [rank, m] and [rank, n] of the nearest matrix of that rank to a^T b, for a [E, m] and b [E, n]."""
    left, small_left = torch.linalg.qr(a.T.double())
    right, small_right = torch.linalg.qr(b.T.double())
    u, s, v = torch.linalg.svd(small_left @ small_right.T)
    root = s[:rank].sqrt()
    return ((left @ u[:, :rank]) * root).T.float(), ((right @ v[:rank].T) * root).T.float()


def _set(linear: nn.Linear, weights: Tensor) -> None:
    linear.weight.copy_(weights[:, :-1])
    linear.bias.copy_(weights[:, -1])


def _project_feed_forward(
    student: HuggingFaceModel, teacher: HuggingFaceModel, basis: Tensor, neurons: Tensor, sizes: Tensor | None
) -> None:
    """Set the student's feed-forward from the neurons of largest size [I], or that contribute most on text [N, I]."""
    inner, outer = teacher.intermediate.dense, teacher.output.dense
    output = basis.T @ outer.weight  # [d, I]
    sizes = neurons.square().mean(0) * output.square().sum(0) if sizes is None else sizes
    kept = sizes.topk(student.intermediate.dense.out_features).indices.sort().values
    dropped = torch.ones_like(sizes, dtype=torch.bool).index_fill(0, kept, False)
    student.intermediate.dense.weight.copy_(inner.weight[kept] @ basis)
    student.intermediate.dense.bias.copy_(inner.bias[kept])
    student.output.dense.weight.copy_(output[:, kept])
    student.output.dense.bias.copy_(outer.bias @ basis + output[:, dropped] @ neurons.mean(0)[dropped])


def _fit_norm(norm: nn.LayerNorm, inputs: Tensor, target: Tensor) -> None:
    """Fit gain and bias of each coordinate by least squares, so that the norm maps inputs to target, both [N, d]."""
    normalized = nn.functional.layer_norm(inputs, norm.normalized_shape, eps=norm.eps)
    mean, target_mean = normalized.mean(0), target.mean(0)
    gain = ((normalized - mean) * (target - target_mean)).sum(0) / (normalized - mean).square().sum(0).clamp(min=1e-6)
    norm.weight.copy_(gain)
    norm.bias.copy_(target_mean - gain * mean)
