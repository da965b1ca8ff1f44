"""A wider teacher's layers in a student's width: what they do to vectors, seen through a map between the widths.

Shapes: N tokens of text, D and d hidden widths, H heads of E and e, I and i feed-forward widths. A student's vector is
the teacher's times `basis` [D, d], whose columns are orthonormal, so a teacher's matrix becomes basis^T W basis.

* Attention keeps the heads that add most. The scores of a head are a bilinear form of rank E, what it adds is a linear
  map of rank E: each is cut to rank e at its singular values, the best there is for every input alike.
* The feed-forward keeps the neurons that add most to the student's part of the stream; the mean of the others goes
  into the bias.
* A rotation and the elementwise gain of a layer norm do not commute, so each coordinate's gain and bias are fitted by
  least squares on text, as are those of the embeddings.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from pretrain.models.encoder import HuggingFaceModel, real_tokens


@torch.no_grad()
def project_layers(
    model: HuggingFaceModel,
    teacher: HuggingFaceModel,
    layers: Sequence[int],
    basis: Tensor,
    sample: Mapping[str, Tensor],
) -> None:
    """Sets the student's layers, and its embeddings' norm, from the teacher layers of these numbers (from 1)."""
    taken = [teacher.encoder.layer[number - 1] for number in layers]
    seen = _run(teacher, sample, [*_norms(teacher, taken), *(layer.output.dense for layer in taken)])
    for student, layer in zip(model.encoder.layer, taken, strict=True):
        _project_attention(student.attention, layer.attention, basis)
        _project_feed_forward(student, layer, basis, seen[layer.output.dense][0])
    # From the bottom up, each on what the student itself makes of the text below it
    norms = zip(_norms(model, model.encoder.layer), _norms(teacher, taken), strict=True)
    for of_student, of_teacher in norms:
        given, _ = _run(model, sample, [of_student])[of_student]
        _fit_norm(of_student, given, seen[of_teacher][1] @ basis)


def _norms(model: HuggingFaceModel, layers: Iterable[HuggingFaceModel]) -> list[nn.LayerNorm]:
    """In the order of computation."""
    pairs = ((layer.attention.output.LayerNorm, layer.output.LayerNorm) for layer in layers)
    return [model.embeddings.LayerNorm, *chain.from_iterable(pairs)]


def _run(
    model: HuggingFaceModel, sample: Mapping[str, Tensor], modules: Sequence[nn.Module]
) -> dict[nn.Module, tuple[Tensor, Tensor]]:
    """What modules are given and make of the sample's real tokens, each [N, ..]."""
    real, training = real_tokens(sample), model.training
    records: dict[nn.Module, tuple[Tensor, Tensor]] = {}
    hooks = [
        module.register_forward_hook(
            lambda module, given, made: records.__setitem__(module, (given[0][real].float(), made[real].float()))
        )
        for module in modules
    ]
    names = ("input_ids", "token_type_ids", "attention_mask")
    try:
        model.eval()(**{name: sample[name] for name in names if name in sample})
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return records


def _project_attention(student: HuggingFaceModel, teacher: HuggingFaceModel, basis: Tensor) -> None:
    num_heads, num_wanted = teacher.self.num_attention_heads, student.self.num_attention_heads
    query, key, value = (_heads(getattr(teacher.self, name), basis, num_heads) for name in ("query", "key", "value"))
    # [H, E, d]: what each head adds, in the student's coordinates
    output = (basis.T @ teacher.output.dense.weight).unflatten(1, (num_heads, -1)).permute(1, 2, 0)
    share = (output.mT @ value).square().sum((1, 2))
    heads = share.topk(num_wanted).indices.sort().values.tolist()
    width = student.self.attention_head_size
    # Scores are divided by the root of the head's width, which is another now.
    balance = (width / query.shape[1]) ** 0.25
    pairs = [_cut(query[head], key[head], width) for head in heads]
    _set(student.self.query, torch.cat([a for a, _ in pairs]) * balance)
    _set(student.self.key, torch.cat([b for _, b in pairs]) * balance)
    pairs = [_cut(output[head], value[head], width) for head in heads]
    _set(student.self.value, torch.cat([b for _, b in pairs]))
    student.output.dense.weight.copy_(torch.cat([a for a, _ in pairs]).T)
    student.output.dense.bias.copy_(teacher.output.dense.bias @ basis)


def _heads(linear: nn.Linear, basis: Tensor, num_heads: int) -> Tensor:
    """[H, E, d + 1]: a head's weights on the student's vectors, its bias last."""
    return torch.cat([linear.weight @ basis, linear.bias.unsqueeze(1)], 1).unflatten(0, (num_heads, -1))


def _cut(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The two factors [rank, ..] of the nearest matrix of that rank to a^T b, for a [E, m] and b [E, n]."""
    left, small_left = torch.linalg.qr(a.T.double())
    right, small_right = torch.linalg.qr(b.T.double())
    u, s, v = torch.linalg.svd(small_left @ small_right.T)
    root = s[:rank].sqrt()
    return ((left @ u[:, :rank]) * root).T.float(), ((right @ v[:rank].T) * root).T.float()


def _set(linear: nn.Linear, weights: Tensor) -> None:
    linear.weight.copy_(weights[:, :-1])
    linear.bias.copy_(weights[:, -1])


def _project_feed_forward(student: HuggingFaceModel, teacher: HuggingFaceModel, basis: Tensor, neurons: Tensor) -> None:
    """`neurons` [N, I] are what the teacher's gave on text."""
    inner, outer = teacher.intermediate.dense, teacher.output.dense
    added = basis.T @ outer.weight  # [d, I]
    share = neurons.square().mean(0) * added.square().sum(0)
    kept = share.topk(student.intermediate.dense.out_features).indices.sort().values
    dropped = torch.ones_like(share, dtype=torch.bool).index_fill(0, kept, False)
    student.intermediate.dense.weight.copy_(inner.weight[kept] @ basis)
    student.intermediate.dense.bias.copy_(inner.bias[kept])
    student.output.dense.weight.copy_(added[:, kept])
    student.output.dense.bias.copy_(outer.bias @ basis + added[:, dropped] @ neurons.mean(0)[dropped])


def _fit_norm(norm: nn.LayerNorm, given: Tensor, target: Tensor) -> None:
    """Gain and bias of each coordinate that take what the norm is given nearest to the target, both [N, d]."""
    normalized = nn.functional.layer_norm(given, norm.normalized_shape, eps=norm.eps)
    mean, goal = normalized.mean(0), target.mean(0)
    gain = ((normalized - mean) * (target - goal)).sum(0) / (normalized - mean).square().sum(0).clamp(min=1e-6)
    norm.weight.copy_(gain)
    norm.bias.copy_(goal - gain * mean)
