"""Predictions of a task model on examples, and their scores.

Shapes: B rows, L tokens, C classes.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from pretrain.progress import Progress
from tasks.batches import collate
from tasks.config import TaskConfig
from tasks.examples import Classified, Example
from tasks.kinds.kind import TaskData
from tasks.kinds.registry import KINDS
from tasks.metrics import score_classes
from tasks.rows import Row

# Takes a batch, returns [B, C], [B, L, C] or [B, L, 2], or [N, 1] for N choices of all rows
LogitsFunction = Callable[[Mapping[str, Tensor]], Tensor]
_BATCH_TOKENS = 8192


@torch.no_grad()
def predict(
    model: LogitsFunction, rows: Sequence[Row], pad_token_id: int, batch_rows: int = 64, progress: str | None = None
) -> list[Tensor]:
    """Return float32 logits of every row, without padding, on the CPU: [C], [L, C] or [L, 2] each, [C] of C choices.

    Batches contain rows of similar length, at most `batch_rows` and 8,192 tokens. `progress` is the name of the phase
    in the progress display; None for no display.
    """
    predictions: list[Tensor] = [torch.empty(0)] * len(rows)
    with Progress(progress or "predicting", len(rows), "rows", hidden=progress is None) as shown:
        for chosen in _batches([len(row.input_ids) for row in rows], batch_rows):
            logits = model(collate([rows[index] for index in chosen], pad_token_id)).float().cpu()
            for index, row in zip(chosen, _by_row(logits, [rows[index] for index in chosen]), strict=True):
                own = row if row.dim() == 1 else row[: len(rows[index].input_ids)]
                predictions[index] = own.clone()  # a view would keep, and send to other ranks, its whole batch
            shown.update(len(chosen))
    return predictions


def _by_row(logits: Tensor, rows: Sequence[Row]) -> Sequence[Tensor]:
    """Return the logits of each row; of multiple choice those of all its choices [C]."""
    return logits.squeeze(1).split([len(row.choices) for row in rows]) if rows[0].choices else logits.unbind()


def _batches(lengths: Sequence[int], batch_rows: int) -> Iterator[list[int]]:
    """Yield batches of row indices by length; the last row of a batch is the longest."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) == batch_rows or (len(batch) + 1) * lengths[index] > _BATCH_TOKENS):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def score(
    logits: Sequence[Tensor],
    rows: Sequence[Row],
    examples: Sequence[Example],
    config: TaskConfig,
    labels: Sequence[str],
) -> dict[str, float]:
    """Return every metric of the task's kind, between 0 and 1.

    Args:
        logits: of every row, as `predict` returns them.
        rows, examples: the encoded examples and the examples themselves.
        labels: the task's classes or entity types; empty for reading.
    """
    return KINDS[config.kind].score(logits, rows, examples, labels)


def score_of_commonest_label(data: TaskData, config: TaskConfig) -> float | None:
    """Return the score of always answering the most frequent training label; None for tasks without classes."""
    labels = Counter(example.label for example in data.train if isinstance(example, Classified))
    if not labels:
        return None
    commonest = labels.most_common(1)[0][0]
    expected = [example.label for example in data.dev if isinstance(example, Classified)]
    return score_classes(expected, [commonest] * len(expected), len(data.labels))[config.scored_by]
