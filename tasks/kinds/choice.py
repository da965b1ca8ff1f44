"""Multiple choice: a question about a text with answers to choose from (C3), or a blank and its idioms (ChID)."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import AutoModelForMultipleChoice

from tasks.examples import Choice, Example
from tasks.kinds.choice_files import BLANK, blanks_of, questions_of, read_blank_answers
from tasks.kinds.input_files import id_of, read_inputs
from tasks.kinds.kind import Input, TaskData, TaskKind, TaskSettings, count_overlap, shares
from tasks.kinds.record_files import Record, read_json_records, read_text, task_files
from tasks.rows import EncodedExamples, Row, Tokenizer, cut_message

_NUM_AT_ONCE = 1000  # examples encoded together
_IDIOM_TOKENS = 4  # masks in the place of another blank, as in CLUE's baseline
_Pairs = list[list[tuple[str, str]]]  # of every example, the two texts of each choice


class _Chosen(TaskKind):
    """Examples with a row for each choice; the model's head gives each one logit."""

    metrics = ("accuracy",)
    auto_class = AutoModelForMultipleChoice
    fixed_keys = ("columns", "labels", "ignored_labels")
    min_labels = 0
    answer_fields = ("label", "answer")
    why_not_augmented = "questions and choices are about words of the text, which would change"

    @abstractmethod
    def parse(self, record: Record, number: int, answers: dict[str, Any] | None) -> Iterator[Choice]:
        """Yield the examples of a record. Raise ValueError naming its line.

        Args:
            number: the record's, from 0.
            answers: what lies beside the file; None for examples to predict, whose answers are not read.
        """

    @abstractmethod
    def pairs(self, examples: Sequence[Choice], row_tokens: int, tokenizer: Tokenizer) -> tuple[_Pairs, list[bool]]:
        """Return the texts of every choice, and for every example whether a text was cut for them."""

    def read(self, config: TaskSettings) -> TaskData:
        """Read both files, each of which may be a pattern of several."""
        train, dev = (tuple(self._read_files(pattern)) for pattern in (config.train, config.dev))
        return TaskData((), train, dev, 0, 0, count_overlap(train, dev))

    def _read_files(self, pattern: str) -> Iterator[Choice]:
        number = num_found = 0
        for path in task_files(pattern):
            answers = read_blank_answers(path)
            for record in read_json_records(path, read_text(path), "questions are JSON"):
                for example in self.parse(record, number, answers):
                    num_found += 1
                    yield example
                number += 1
        if not num_found:
            raise ValueError(f"{pattern}: contains no questions")

    def inputs(self, path: Path, config: TaskSettings) -> Iterator[Input]:
        """Yield the examples of a file by their ids, or where they have none by their numbers from 0."""
        asked = 0
        for number, record in enumerate(read_inputs(path, config)):
            name = id_of(record, asked)
            try:
                if isinstance(record, ValueError):
                    raise record
                parsed = enumerate(self.parse(record, number, None))
                found = [Input(one.id or (asked + place if place else name), one) for place, one in parsed]
            except ValueError as error:
                found = [Input(name, problem=str(error))]
            yield from found
            asked += len(found)

    def encode(
        self, examples: Sequence[Example], config: TaskSettings, labels: Sequence[str], tokenizer: Tokenizer
    ) -> EncodedExamples:
        """One row an example, with the tokens of all of its choices; of a pair too long the longer text is cut."""
        rows: list[Row] = []
        num_cut = 0
        for start in range(0, len(examples), _NUM_AT_ONCE):
            part = [one for one in examples[start : start + _NUM_AT_ONCE] if isinstance(one, Choice)]
            pairs, is_cut = self.pairs(part, config.row_tokens, tokenizer)
            firsts, seconds = zip(*(pair for choices in pairs for pair in choices), strict=True)
            encoded = tokenizer(list(firsts), list(seconds), truncation="longest_first", max_length=config.row_tokens)
            place = 0
            for example, cut_before in zip(part, is_cut, strict=True):
                places = range(place, place := place + len(example.choices))
                num_cut += cut_before or any(encoded.encodings[one].overflowing for one in places)
                rows.append(_row(encoded, places, example.label, len(rows)))
        return EncodedExamples(rows, num_cut, cut_message(config, num_cut, len(examples)))

    def score(
        self, logits: Sequence[Tensor], rows: Sequence[Row], examples: Sequence[Example], labels: Sequence[str]
    ) -> dict[str, float]:
        expected = [one.label for one in examples if isinstance(one, Choice)]
        right = [label == one for label, one in zip(self.chosen(logits, examples), expected, strict=True)]
        return {"accuracy": sum(right) / len(right)}

    def chosen(self, logits: Sequence[Tensor], examples: Sequence[Example]) -> list[int]:
        """Return the index of the likeliest choice of every example."""
        return [int(values.argmax()) for values in logits]

    def answers(
        self, logits: Sequence[Tensor], rows: Sequence[Row], examples: Sequence[Example], labels: Sequence[str]
    ) -> list[dict[str, Any]]:
        """`label`, the index of a choice, and `answer`, its words."""
        chosen = zip(self.chosen(logits, examples), examples, strict=True)
        return [{"label": index, "answer": one.choices[index]} for index, one in chosen if isinstance(one, Choice)]

    def probabilities(
        self, logits: Sequence[Tensor], rows: Sequence[Row], examples: Sequence[Example], labels: Sequence[str]
    ) -> list[Any]:
        """The probability of every choice, in their order."""
        return [shares(values) for values in logits]

    def outputs(self, labels: Sequence[str]) -> list[str]:
        """None: the head's only output is a choice's logit."""
        return []


class Choices(_Chosen):
    """C3: [[line, ..], [{"question", "choice": [..], "answer"}, ..], id], with any number of choices."""

    def parse(self, record: Record, number: int, answers: dict[str, Any] | None) -> Iterator[Choice]:
        return questions_of(record, answers is not None)

    def pairs(self, examples: Sequence[Choice], row_tokens: int, tokenizer: Tokenizer) -> tuple[_Pairs, list[bool]]:
        """The passage, and the question with a choice, separated as texts are: as in CLUE's baseline."""
        between = tokenizer.sep_token
        pairs = [[(one.text, f"{one.question}{between}{choice}") for choice in one.choices] for one in examples]
        return pairs, [False] * len(pairs)


class Idioms(_Chosen):
    """ChID: {"content": [text, ..], "candidates": [..]}, and the answers of train.json in train_answer.json.

    The blanks of a record are filled with different candidates, the surest first, as in CLUE's baseline.
    """

    def parse(self, record: Record, number: int, answers: dict[str, Any] | None) -> Iterator[Choice]:
        return blanks_of(record, number, answers)

    def pairs(self, examples: Sequence[Choice], row_tokens: int, tokenizer: Tokenizer) -> tuple[_Pairs, list[bool]]:
        """A candidate, and the text around the blank: as many tokens on both sides as there is room for."""
        mask = tokenizer.mask_token or "_"
        idioms = sorted({choice for one in examples for choice in one.choices})
        lengths = dict(zip(idioms, _token_counts(idioms, tokenizer), strict=True))
        special = tokenizer.num_special_tokens_to_add(pair=True)
        most = [row_tokens - special - max(lengths[choice] for choice in one.choices) for one in examples]
        sides = [_sides(one, mask * _IDIOM_TOKENS) for one in examples]
        flat = [side for pair in sides for side in pair]
        offsets = tokenizer(flat, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        windows, is_cut = [""] * len(examples), [False] * len(examples)
        rooms = {index: max(0, size - 1) for index, size in enumerate(most)}  # tokens around the blank
        while rooms:
            for index, room in rooms.items():
                places = offsets[2 * index], offsets[2 * index + 1]
                windows[index], is_cut[index] = _window(sides[index], places, mask, room)
            counts = zip(rooms, _token_counts([windows[index] for index in rooms], tokenizer), strict=True)
            # A part of a text may have more tokens than it had in the whole; then the window is made smaller.
            excess = {index: count - most[index] for index, count in counts}
            rooms = {index: max(0, room - excess[index]) for index, room in rooms.items() if room and excess[index] > 0}
        pairs = [[(choice, window) for choice in one.choices] for one, window in zip(examples, windows, strict=True)]
        return pairs, is_cut

    def chosen(self, logits: Sequence[Tensor], examples: Sequence[Example]) -> list[int]:
        """Return the candidate of every blank; those of a group differ as long as there are enough."""
        groups = groupby(range(len(examples)), key=lambda index: getattr(examples[index], "group", -1))
        found = [-1] * len(examples)
        for _, places in groups:
            blanks = list(places)
            sure = [(value, blank, one) for blank in blanks for one, value in enumerate(logits[blank].tolist())]
            taken: set[int] = set()
            for _, blank, choice in sorted(sure, key=lambda triple: -triple[0]):
                if found[blank] < 0 and choice not in taken:
                    found[blank] = choice
                    taken.add(choice)
            for blank in blanks:
                found[blank] = found[blank] if found[blank] >= 0 else int(logits[blank].argmax())
        return found


def _sides(example: Choice, other: str) -> tuple[str, str]:
    """Return the text before and after the example's blank, `other` in the place of its other blanks."""
    left, _, right = example.text.partition(example.question)
    return BLANK.sub(other, left), BLANK.sub(other, right)


def _window(
    sides: tuple[str, str], offsets: tuple[Sequence[tuple[int, int]], Sequence[tuple[int, int]]], mask: str, room: int
) -> tuple[str, bool]:
    """Return the text around a blank, of `room` tokens besides `mask`, and whether that is not all of it."""
    (left, right), (before, after) = sides, offsets
    num_left = min(len(before), max(room // 2, room - len(after)))
    num_right = min(len(after), room - num_left)
    start = before[-num_left][0] if num_left else len(left)
    text = f"{left[start:]}{mask}{right[: after[num_right - 1][1] if num_right else 0]}"
    return text, num_left < len(before) or num_right < len(after)


def _token_counts(texts: Sequence[str], tokenizer: Tokenizer) -> list[int]:
    return list(map(len, tokenizer(list(texts), add_special_tokens=False)["input_ids"]))


def _row(encoded: Any, places: range, label: int, index: int) -> Row:
    ids = [encoded["input_ids"][place] for place in places]
    types = encoded.get("token_type_ids")
    joined = [one for values in ids for one in values]
    kinds = [one for place in places for one in types[place]] if types else [0] * len(joined)
    return Row(joined, kinds, {"labels": label}, index, choices=tuple(map(len, ids)))
