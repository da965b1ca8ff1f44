"""What a graph answers against what the model answers, on the same batches, and what is too much of a difference.

Shapes: B rows, L tokens, D hidden width, E width of a text's vector.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from pretrain.probes.vectors import batch_by_length, masked_mean, nearest_neighbour_accuracy
from pretrain.progress import Progress
from tasks.config import TaskConfig
from tasks.evaluation import predict, score
from tasks.examples import Example
from tasks.kinds.registry import KINDS
from tasks.rows import Row

Batch = Mapping[str, Tensor]
Answerer = Callable[[Batch], Mapping[str, Tensor]]  # takes a batch, returns the outputs of the graph by name
MODEL, FLOAT32, INT8_FORM, INT4_FORM = "torch", "onnx", "int8", "int4"  # the forms that are compared
MOST_DIFFERENCE = 1e-4  # of float32
LEAST_COSINE = 0.98  # of int8 and int4, on average
MOST_CHANGED = 0.01  # answers
_RANDOM_ROWS, _ROWS_PER_BATCH = 64, 16


@dataclass(frozen=True)
class Material:
    """What a student is asked: texts, those whose neighbours label the others, or the examples of a task.

    Attributes:
        texts: empty where rows of random ids stand for them.
        labels: of the texts; the first `num_train` are the ones that the others' neighbours are found among.
        rows, examples: of a task model.
    """

    texts: Sequence[str] = ()
    labels: Sequence[int | str] = ()
    num_train: int = 0
    task: TaskConfig | None = None
    rows: Sequence[Row] = ()
    examples: Sequence[Example] = ()
    names: Sequence[str] = ()  # of the task's labels

    @property
    def described(self) -> str:
        """What was asked, in words for the card."""
        if self.task:
            return f"the {len(self.examples):,} development examples of {self.task.name}"
        return f"{len(self.texts):,} texts" if self.texts else f"{_RANDOM_ROWS} rows of random tokens"


@dataclass
class Answered:
    """Answers of one form: vectors of all texts [N, E], or the logits of every row.

    Attributes:
        difference: the largest one to the model's outputs at real tokens.
    """

    difference: float = 0.0
    vectors: Tensor = field(default_factory=lambda: torch.empty(0))
    logits: list[Tensor] = field(default_factory=list)


def ask_all(
    forms: Mapping[str, Answerer], material: Material, tokenizer: Any, max_tokens: int, vocab_size: int
) -> dict[str, Answered]:
    """Ask every form the same batches. The first form is the model that the others are compared with."""
    if material.task:
        return _ask_task(forms, material, tokenizer.pad_token_id)
    batches = list(_batches(material, tokenizer, max_tokens, vocab_size))
    num_rows = sum(len(chosen) for chosen, _ in batches)
    answered, rows = {name: Answered() for name in forms}, {name: [torch.empty(0)] * num_rows for name in forms}
    for chosen, batch in Progress("comparing answers", len(batches), "batches").over(batches):
        first: Mapping[str, Tensor] = {}
        for name, ask in forms.items():
            found = ask(batch)
            first = first or found
            difference = max(_difference(found[key], first[key], batch["attention_mask"]) for key in found)
            answered[name].difference = max(answered[name].difference, difference)
            for index, vector in zip(chosen, _vectors(found, batch["attention_mask"]), strict=True):
                rows[name][index] = vector
    for name, one in answered.items():
        one.vectors = torch.stack(rows[name])
    return answered


def _batches(material: Material, tokenizer: Any, max_tokens: int, vocab_size: int) -> Iterator[tuple[list[int], Batch]]:
    """Yield (indices of the texts, batch of ids, mask and types)."""
    if material.texts:
        found = batch_by_length(tokenizer, material.texts, max_tokens, _ROWS_PER_BATCH)
    else:
        found = _random_batches(max_tokens, vocab_size, tokenizer.pad_token_id)
    for chosen, batch in found:
        yield chosen, batch | {"token_type_ids": torch.zeros_like(batch["input_ids"])}


def _random_batches(max_tokens: int, vocab_size: int, pad: int) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.linspace(1, max_tokens, _RANDOM_ROWS).int().tolist()
    for start in range(0, _RANDOM_ROWS, _ROWS_PER_BATCH):
        chosen = [*range(start, start + _ROWS_PER_BATCH)]
        shape = _ROWS_PER_BATCH, lengths[chosen[-1]]
        mask = (torch.arange(shape[1]) < torch.tensor([lengths[index] for index in chosen]).unsqueeze(1)).long()
        ids = torch.randint(vocab_size - 1, shape, generator=generator)
        ids = (ids + (ids >= pad)).masked_fill(mask == 0, pad)  # a padding token inside a row would change positions
        yield chosen, {"input_ids": ids, "attention_mask": mask}


def _vectors(found: Mapping[str, Tensor], mask: Tensor) -> Tensor:
    vectors = found.get("sentence_embedding")
    return masked_mean(found["last_hidden_state"], mask) if vectors is None else vectors


def _difference(one: Tensor, other: Tensor, mask: Tensor) -> float:
    """Return the largest difference at real tokens; infinity where either is not a number."""
    apart = (one - other).abs()
    if apart.dim() == 3:
        apart = apart.masked_fill(mask.unsqueeze(-1) == 0, 0.0)
    return float(apart.nan_to_num(torch.inf).max())


def _ask_task(forms: Mapping[str, Answerer], material: Material, pad: int) -> dict[str, Answered]:
    answered: dict[str, Answered] = {}
    for name, ask in forms.items():

        def logits(batch: Batch, ask: Answerer = ask) -> Tensor:
            found = [*ask(batch).values()]
            return found[0] if len(found) == 1 else torch.stack(found, -1)

        one = answered[name] = Answered(logits=predict(logits, material.rows, pad, progress=f"asking {name}"))
        first = next(iter(answered.values()))
        apart = [(a - b).abs().nan_to_num(torch.inf).max() for a, b in zip(one.logits, first.logits, strict=True)]
        one.difference = float(max(apart))
    return answered


def compare(answered: Mapping[str, Answered], material: Material) -> dict[str, dict[str, float]]:
    """Return the figures of every form.

    Of a general student: `difference`, `cosine` and `least_cosine` to the model's vectors, and `score`, the accuracy of
    neighbours where texts have labels. Vectors are centred by the mean of the model's: those of many models lie in a
    narrow cone, where all cosines are close to 1. Of a task model: `difference`, `changed`, the share of answers that
    are others, and `score`.
    """
    first = next(iter(answered.values()))
    return {name: {"difference": one.difference} | _figures(one, first, material) for name, one in answered.items()}


def _figures(one: Answered, first: Answered, material: Material) -> dict[str, float]:
    if material.task:
        kind = KINDS[material.task.kind]
        before, after = (
            kind.answers(form.logits, material.rows, material.examples, material.names) for form in (first, one)
        )
        changed = [a != b for a, b in zip(after, before, strict=True)]
        scores = score(one.logits, material.rows, material.examples, material.task, material.names)
        return {"changed": sum(changed) / len(changed), "score": scores[material.task.scored_by]}
    mean = first.vectors.mean(0)
    cosines = cosine_similarity(one.vectors - mean, first.vectors - mean)
    figures = {"cosine": float(cosines.mean()), "least_cosine": float(cosines.min())}
    if material.labels:
        near, far = one.vectors[: material.num_train], one.vectors[material.num_train :]
        labels = material.labels[: material.num_train], material.labels[material.num_train :]
        figures["score"], figures["score_error"] = nearest_neighbour_accuracy(near, labels[0], far, labels[1])
    return figures


def losses(figures: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return what each graph lost beyond the limits, in words; an empty list if nothing."""
    found = []
    for name, one in figures.items():
        if name == FLOAT32 and not one["difference"] <= MOST_DIFFERENCE:
            found.append(f"{name}: differs by up to {one['difference']:.2g}; at most {MOST_DIFFERENCE:g} is allowed")
        if name in (INT8_FORM, INT4_FORM) and not one.get("cosine", 1.0) >= LEAST_COSINE:
            found.append(f"{name}: mean cosine {one['cosine']:.4f}; at least {LEAST_COSINE:g} is wanted")
        if name != MODEL and not one.get("changed", 0.0) <= MOST_CHANGED:
            model = figures.get(MODEL)  # whose score tells whether the changes are for the worse
            scores = f" (score {one['score']:.4f}, the model's {model['score']:.4f})" if model else ""
            changed = f"changes {one['changed']:.2%} of the answers{scores}"
            found.append(f"{name}: {changed}; at most {MOST_CHANGED:.0%} is allowed")
    return found
