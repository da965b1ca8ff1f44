"""What a teacher gives on real text, before anything is trained on it: finite, varied features, and a head that knows.

A wrong or damaged teacher trains students to the end without an error. Seen in public: masked-language heads that were
saved at their random start (chinese-roberta-wwm-ext-large), and states that overflow in float16.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pretrain.models.encoder import Features, real_tokens
from pretrain.models.teacher import Teacher
from pretrain.objectives.vocabulary import IGNORED

_MIN_SPREAD = 0.01  # of vectors over tokens, as a share of their length; a trained model had 0.16 to 0.96
_MAX_CERTAINTY = 0.99  # mean largest weight of a token's relations; a trained model had 0.005 to 0.45
_NEAR_LIMIT = 0.5  # share of the largest number of the type
_SIGNIFICANT = 3.0  # standard errors
_NAMES = {"query": "queries", "key": "keys", "value": "values", "hidden_states": "hidden states"}


@dataclass(frozen=True)
class HeadScore:
    """How many of `num_tokens` masked tokens a masked-language head predicts.

    `commonest` is the share that always answering the commonest of these tokens would predict.
    """

    accuracy: float
    commonest: float
    num_tokens: int

    def __str__(self) -> str:
        shares = f"{100 * self.accuracy:.1f} % of {self.num_tokens:,} masked tokens"
        return f"{shares} (always the commonest of them: {100 * self.commonest:.1f} %)"

    @property
    def is_chance(self) -> bool:
        """Whether it is not better than the commonest token, within three standard errors."""
        error = math.sqrt(self.commonest * (1 - self.commonest) / self.num_tokens)
        return self.accuracy <= self.commonest + _SIGNIFICANT * error


@torch.no_grad()
def check_features(teacher: Teacher, batches: Iterable[Mapping[str, Tensor]]) -> tuple[HeadScore | None, list[str]]:
    """Run the teacher on batches on its device; return its head's score, None without head or labels, and warnings.

    Raise ValueError naming the features and layer if any of a real token is not finite.

    Args:
        batches: as for Encoder.forward, with `labels` [B, L] where tokens are masked. Consumed.
    """
    remarks: dict[str, None] = {}
    answers: list[Tensor] = []
    labels: list[Tensor] = []
    for batch in batches:
        features = teacher(batch)
        for name, layer, vectors in _named(features):
            remarks |= dict.fromkeys(_problems(name, layer, vectors, batch, teacher.encoder.shape.num_attention_heads))
        if teacher.head and "labels" in batch:
            places = batch["labels"] != IGNORED
            last = features.hidden_states[teacher.encoder.shape.num_layers]
            answers.append(teacher.head.logits(last[places]).argmax(-1).cpu())
            labels.append(batch["labels"][places].cpu())
    score = _score(torch.cat(answers), torch.cat(labels)) if answers else None
    if score and score.is_chance:
        remarks[
            f"the teacher's masked-language head predicts {score}: it knows no more than chance, and students would "
            "learn noise from it. Some models were published with a head that was never trained, such as "
            "chinese-roberta-wwm-ext-large; take another teacher, or an objective that reads no head (minilm_v2, "
            "hidden_states, tinybert)"
        ] = None
    return score, list(remarks)


def _score(answers: Tensor, labels: Tensor) -> HeadScore | None:
    if not len(labels):
        return None
    commonest = labels.unique(return_counts=True)[1].max()
    return HeadScore(float((answers == labels).float().mean()), float(commonest / len(labels)), len(labels))


def _named(features: Features) -> Iterator[tuple[str, int, Tensor]]:
    """The features that were read, in the order of computing them: kind, layer and vectors [B, L, D]."""
    for layer in sorted({layer for name in _NAMES for layer in getattr(features, name)}):
        for name in _NAMES:
            if layer in getattr(features, name):
                yield name, layer, getattr(features, name)[layer]


def _problems(name: str, layer: int, vectors: Tensor, batch: Mapping[str, Tensor], heads: int) -> Iterator[str]:
    """Yield what is degenerate. Raise ValueError for numbers that are not finite."""
    real = vectors[real_tokens(batch)].float()  # [N, D]
    where, dtype = f"the teacher's {_NAMES[name]} of layer {layer}", vectors.dtype
    kind = str(dtype).removeprefix("torch.")
    if not real.isfinite().all():
        advice = "set teacher.dtype=float32, or bfloat16" if dtype != torch.float32 else "take another teacher"
        raise ValueError(f"{where} are not finite in {kind} on the first rows of the corpus; {advice}")
    if real.abs().max() > _NEAR_LIMIT * torch.finfo(dtype).max:
        yield f"{where} come near the largest number of {kind}: other text may exceed it; set teacher.dtype=float32"
    if len(real) < 2:
        return
    spread = float((real - real.mean(0)).norm() / real.norm().clamp(min=torch.finfo(torch.float32).tiny))
    if spread < _MIN_SPREAD:
        yield (
            f"{where} are nearly the same for all tokens (they differ by {100 * spread:.2g} % of their length): there "
            "is nothing in them to learn; is this the whole of a trained model?"
        )
    elif name != "hidden_states" and (certainty := _certainty(vectors[:1], real_tokens(batch)[:1], heads)):
        yield (
            f"the relations among {where} are saturated (a token's first has {100 * certainty:.2f} % of the weight): "
            "relation losses learn little from them; try another teacher_layer"
        )


def _certainty(vectors: Tensor, mask: Tensor, heads: int) -> float:
    """Mean largest weight among the scaled dot-product relations of tokens of a row [1, L, D]; 0 if that is usual."""
    real = vectors[mask].float()  # [N, D]
    split = real.view(len(real), heads, -1).transpose(0, 1)  # [H, N, d]
    relations = torch.softmax(split @ split.transpose(1, 2) / split.shape[-1] ** 0.5, -1)
    certainty = float(relations.amax(-1).mean())
    return certainty if certainty > _MAX_CERTAINTY and len(real) > 1 else 0.0
