"""Reading: the answer to a question is a span of a text, which is read in windows."""

import math
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForQuestionAnswering

from tasks.examples import Example, Question
from tasks.kinds.input_files import read_inputs
from tasks.kinds.kind import Input, TaskData, TaskKind, TaskSettings, count_overlap
from tasks.kinds.question_files import questions_of, read_questions
from tasks.metrics import score_reading
from tasks.rows import EncodedExamples, Row, Tokenizer

MAX_ANSWER_TOKENS = 64


class Reading(TaskKind):
    """Questions about texts, in any form of tasks/kinds/question_files.py."""

    metrics = ("reading_f1", "exact_match")
    auto_class = AutoModelForQuestionAnswering
    fixed_keys = ("columns", "labels", "ignored_labels")
    min_labels = 0
    has_questions = True
    why_not_augmented = "answers are words of the text at a place in it, and both would change"
    answer_fields = ("answer",)

    def problems(self, config: TaskSettings) -> Iterator[str]:
        if config.window_stride >= config.row_tokens // 2:
            yield "window_stride: must be less than half of row_tokens, so that windows advance"

    def read(self, config: TaskSettings) -> TaskData:
        files, used = [list(read_questions(Path(path))) for path in (config.train, config.dev)], []
        for path, questions in zip((config.train, config.dev), files, strict=True):
            if repeated := [name for name, count in Counter(one.id for one in questions).items() if count > 1]:
                raise ValueError(f"{path}: question id {repeated[0]} occurs more than once")
            used.append(_usable(questions, path, config.skip_unanswerable, needs_places=questions is files[0]))
            if not used[-1]:
                raise ValueError(f"{path}: contains no questions" + (" with an answer" if questions else ""))
        train, dev = map(tuple, used)
        placed = tuple(map(_placed, train))
        num_moved = sum(before != after for before, after in zip(train, placed, strict=True))
        num_skipped = sum(map(len, files)) - len(train) - len(dev)
        return TaskData((), placed, dev, 0, num_moved, count_overlap(placed, dev), num_skipped=num_skipped)

    def inputs(self, path: Path, config: TaskSettings) -> Iterator[Input]:
        """Yield the questions of a file by their ids; in a table they have the columns id, context and question."""
        return questions_of(read_inputs(path, config), with_answers=False)

    def encode(
        self, examples: Sequence[Example], config: TaskSettings, labels: Sequence[str], tokenizer: Tokenizer
    ) -> EncodedExamples:
        """Encode questions with windows over their texts. Windows without the answer have the first token as answer."""
        max_tokens, num_cut = config.row_tokens // 4, 0  # of the question, to leave room for the text
        rows = []
        for index, example in enumerate(examples):
            assert isinstance(example, Question)
            question = _beginning(example.question, max_tokens, tokenizer)
            num_cut += question != example.question
            encoded = tokenizer(
                question,
                example.text,
                truncation="only_second",
                max_length=config.row_tokens,
                stride=config.window_stride,
                return_overflowing_tokens=True,
                return_offsets_mapping=True,
            )
            answer_start, words = example.answers[0] if example.answers else (-1, "")
            for window, ids in enumerate(encoded["input_ids"]):
                in_text = [part == 1 for part in encoded.sequence_ids(window)]
                spans = zip(in_text, encoded["offset_mapping"][window], strict=True)
                offsets = tuple(tuple(span) if inside and span[1] > span[0] else None for inside, span in spans)
                start, end = _tokens_of(offsets, answer_start, answer_start + len(words))
                types = encoded["token_type_ids"][window] if "token_type_ids" in encoded else [0] * len(ids)
                rows.append(Row(ids, types, {"start_positions": start, "end_positions": end}, index, offsets))
        message = f"{config.name}: {num_cut:,} of {len(examples):,} questions are cut at {max_tokens} tokens"
        return EncodedExamples(rows, num_cut, message if num_cut else "")

    def score(
        self, logits: Sequence[Tensor], rows: Sequence[Row], examples: Sequence[Example], labels: Sequence[str]
    ) -> dict[str, float]:
        questions = [example for example in examples if isinstance(example, Question)]
        words = answers_of(logits, rows, questions)
        return score_reading(questions, {one.id: answer for one, answer in zip(questions, words, strict=True)})

    def answers(
        self, logits: Sequence[Tensor], rows: Sequence[Row], examples: Sequence[Example], labels: Sequence[str]
    ) -> list[dict[str, Any]]:
        """`answer`, words of the text."""
        questions = [example for example in examples if isinstance(example, Question)]
        return [{"answer": words} for words in answers_of(logits, rows, questions)]

    def probabilities(
        self, logits: Sequence[Tensor], rows: Sequence[Row], examples: Sequence[Example], labels: Sequence[str]
    ) -> list[Any]:
        """The probability of the best span among all spans of all windows of its text."""
        totals, best = ([-math.inf] * len(examples) for _ in range(2))
        for row, values in zip(rows, logits, strict=True):
            spans = _span_values(values.double(), row)
            if spans.isfinite().any():
                best[row.example] = max(best[row.example], float(spans.max()))
                total = torch.tensor([totals[row.example], float(spans.logsumexp((0, 1)))], dtype=torch.float64)
                totals[row.example] = float(total.logsumexp(0))
        sure = zip(best, totals, strict=True)
        return [0.0 if total == -math.inf else round(math.exp(most - total), 6) for most, total in sure]

    def outputs(self, labels: Sequence[str]) -> list[str]:
        """None: the head's two outputs are the start and the end of an answer."""
        return []


def answers_of(logits: Sequence[Tensor], rows: Sequence[Row], questions: Sequence[Question]) -> list[str]:
    """Return for every question the words of the best span over all windows of its text, empty if there is none."""
    best: dict[int, tuple[float, str]] = {}
    for row, values in zip(rows, logits, strict=True):
        text = questions[row.example].text
        candidate = best_span(values, row)
        if candidate and (row.example not in best or candidate[0] > best[row.example][0]):
            value, start, end = candidate
            best[row.example] = value, text[start:end]
    return [best[index][1] if index in best else "" for index in range(len(questions))]


def best_span(logits: Tensor, row: Row) -> tuple[float, int, int] | None:
    """Return the likeliest span in the text: sum of start and end logit, first character, end (exclusive).

    None if the row contains none of the text. `logits` are [L, 2], for start and end.
    """
    spans = _span_values(logits, row)
    first, last = divmod(int(spans.argmax()), len(spans))
    first_offset, last_offset = row.offsets[first], row.offsets[last]
    if first_offset is None or last_offset is None:
        return None
    return float(spans[first, last]), first_offset[0], last_offset[1]


def _span_values(logits: Tensor, row: Row) -> Tensor:
    """Return the sum of start and end logit of every span [L, L], minus infinity for those that no answer may be."""
    outside = torch.tensor([offset is None for offset in row.offsets])
    starts, ends = logits.masked_fill(outside.unsqueeze(-1), -torch.inf).unbind(-1)
    spans = starts.unsqueeze(1) + ends
    possible = torch.ones_like(spans, dtype=torch.bool).triu().tril(MAX_ANSWER_TOKENS - 1)
    return spans.masked_fill(~possible, -torch.inf)


def _beginning(text: str, max_tokens: int, tokenizer: Tokenizer) -> str:
    """Return the beginning of a text, of at most `max_tokens` tokens."""
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return text if len(offsets) <= max_tokens else text[: offsets[max_tokens - 1][1]]


def _tokens_of(offsets: Sequence[tuple[int, int] | None], start: int, end: int) -> tuple[int, int]:
    """Return the first and last token of characters start to end; (0, 0) if not all of them are in this window."""
    inside = [index for index, offset in enumerate(offsets) if offset and offset[0] < end and offset[1] > start]
    text_offsets = [offset for offset in offsets if offset]
    if not inside or text_offsets[0][0] > start or text_offsets[-1][1] < end:
        return 0, 0
    return inside[0], inside[-1]


def _usable(questions: list[Question], path: str, skips: bool, needs_places: bool) -> list[Question]:
    """Return the questions with an answer, which must be in the text for training.

    Raise ValueError naming the others, or warn of them if they are to be left out.
    """
    unanswered = [one.id for one in questions if not any(words for _, words in one.answers)]
    unplaced = [one.id for one in questions if needs_places and one.id not in unanswered and not _is_placed(one)]
    for ids, fault in ((unanswered, "no answer"), (unplaced, "an answer that is not in the text")):
        if ids:
            found = f"{path}: questions with {fault}: {len(ids):,} of {len(questions):,}, e.g. {', '.join(ids[:3])}"
            if not skips:
                raise ValueError(f"{found}; set skip_unanswerable to true to leave them out")
            warnings.warn(f"{found}: left out", stacklevel=2)
    left_out = {*unanswered, *unplaced}
    return [one for one in questions if one.id not in left_out]


def _is_placed(question: Question) -> bool:
    return all(words and words in question.text for _, words in question.answers)


def _placed(question: Question) -> Question:
    """Return a question with every answer's position corrected to the nearest one with its words.

    Some positions in CMRC2018 are off by a character. Only training needs positions; scores compare words.
    """
    answers = []
    for start, words in question.answers:
        places = [match.start() for match in re.finditer(re.escape(words), question.text)]
        answers.append((min(places, key=lambda place: abs(place - start)), words))
    return replace(question, answers=tuple(answers))
