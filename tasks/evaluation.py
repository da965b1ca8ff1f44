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
from tasks.examples import Classified, Example, Question, Tagged
from tasks.metrics import score_classes, score_entities, score_reading
from tasks.readers import TaskData
from tasks.rows import Row, character_tags, tags_of

LogitsFunction = Callable[[Mapping[str, Tensor]], Tensor]  # takes a batch, returns [B, C], [B, L, C] or [B, L, 2]
MAX_ANSWER_TOKENS = 64
_BATCH_TOKENS = 8192


@torch.no_grad()
def predict(
    model: LogitsFunction, rows: Sequence[Row], pad_token_id: int, batch_rows: int = 64, progress: str | None = None
) -> list[Tensor]:
    """Return float32 logits of every row, without padding, on the CPU: [C], [L, C] or [L, 2] each.

    Batches contain rows of similar length, at most `batch_rows` and 8,192 tokens. `progress` is the name of the phase
    in the progress display; None for no display.
    """
    predictions: list[Tensor] = [torch.empty(0)] * len(rows)
    with Progress(progress or "predicting", len(rows), "rows", hidden=progress is None) as shown:
        for chosen in _batches([len(row.input_ids) for row in rows], batch_rows):
            logits = model(collate([rows[index] for index in chosen], pad_token_id)).float().cpu()
            for index, row in zip(chosen, logits, strict=True):
                own = row if row.dim() == 1 else row[: len(rows[index].input_ids)]
                predictions[index] = own.clone()  # a view would keep, and send to other ranks, its whole batch
            shown.update(len(chosen))
    return predictions


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
    if config.kind == "reading":
        questions = [example for example in examples if isinstance(example, Question)]
        return score_reading(questions, answers_of(logits, rows, questions))
    if config.kind == "entities":
        tags = tags_of(labels)
        tagged = [example for example in examples if isinstance(example, Tagged)]
        predicted = [
            spread_tags([tags[index] for index in values.argmax(-1).tolist()], row, len(example.text))
            for values, row, example in zip(logits, rows, tagged, strict=True)
        ]
        return score_entities([character_tags(example) for example in tagged], predicted)
    expected = [example.label for example in examples if isinstance(example, Classified)]
    return score_classes(expected, [int(row.argmax()) for row in logits], len(labels))


def spread_tags(tags: Sequence[str], row: Row, num_characters: int) -> list[str]:
    """Return a tag for each character from a tag for each token; text beyond the row is not an entity.

    Characters without a token, such as spaces, belong to an entity that continues after them.
    """
    spread, before = ["O"] * num_characters, 0
    for tag, offset in zip(tags, row.offsets, strict=True):
        if offset is None:
            continue
        start, end = offset
        inside = "O" if tag == "O" else f"I-{tag[2:]}"
        spread[start:end] = [tag, *[inside] * (end - start - 1)]
        if before and tag.startswith("I-") and spread[before - 1].endswith(tag[1:]):
            spread[before:start] = [tag] * (start - before)
        before = end
    return spread


def score_of_commonest_label(data: TaskData, config: TaskConfig) -> float | None:
    """Return the score of always answering the most frequent training label; None for tasks without classes."""
    labels = Counter(example.label for example in data.train if isinstance(example, Classified))
    if not labels:
        return None
    commonest = labels.most_common(1)[0][0]
    expected = [example.label for example in data.dev if isinstance(example, Classified)]
    return score_classes(expected, [commonest] * len(expected), len(data.labels))[config.scored_by]


def answers_of(logits: Sequence[Tensor], rows: Sequence[Row], questions: Sequence[Question]) -> dict[str, str]:
    """Return by question id the words of the best span over all windows of its text."""
    best: dict[int, tuple[float, str]] = {}
    for row, values in zip(rows, logits, strict=True):
        text = questions[row.example].text
        candidate = best_span(values, row)
        if candidate and (row.example not in best or candidate[0] > best[row.example][0]):
            value, start, end = candidate
            best[row.example] = value, text[start:end]
    return {question.id: best[index][1] if index in best else "" for index, question in enumerate(questions)}


def best_span(logits: Tensor, row: Row) -> tuple[float, int, int] | None:
    """Return the likeliest span in the text: sum of start and end logit, first character, end (exclusive).

    None if the row contains none of the text. `logits` are [L, 2], for start and end.
    """
    outside = torch.tensor([offset is None for offset in row.offsets])
    starts, ends = logits.masked_fill(outside.unsqueeze(-1), -torch.inf).unbind(-1)
    spans = starts.unsqueeze(1) + ends  # [L, L], for every start and end
    possible = torch.ones_like(spans, dtype=torch.bool).triu().tril(MAX_ANSWER_TOKENS - 1)
    spans = spans.masked_fill(~possible, -torch.inf)
    first, last = divmod(int(spans.argmax()), len(starts))
    first_offset, last_offset = row.offsets[first], row.offsets[last]
    if first_offset is None or last_offset is None:
        return None
    return float(spans[first, last]), first_offset[0], last_offset[1]
