"""One class for a text, for a pair of texts, or for two marked spans of a text."""

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor
from transformers import AutoModelForSequenceClassification

from tasks.examples import Classified, Example
from tasks.kinds.kind import Columns, TaskSettings, shares
from tasks.kinds.record_files import Record
from tasks.kinds.records import RecordKind, check_index, check_text, value_of
from tasks.metrics import score_classes
from tasks.rows import EncodedExamples, Row, Tokenizer, count_cut, cut_message


class Sentence(RecordKind):
    """A text and its class."""

    metrics = ("accuracy", "f1", "macro_f1")
    auto_class = AutoModelForSequenceClassification
    formats: ClassVar[tuple[str, ...]] = ("json_lines", "table", "csv")

    def example(self, record: Record, columns: Columns) -> Classified:
        text_b = None if columns.text_b is None else value_of(record, columns.text_b)
        return Classified(value_of(record, columns.text), text_b, -1)

    def encode(
        self, examples: Sequence[Example], config: TaskSettings, labels: Sequence[str], tokenizer: Tokenizer
    ) -> EncodedExamples:
        """One row an example; of a text or pair that is too long, the longer text is cut at its end."""
        assert all(isinstance(example, Classified) for example in examples)
        texts = [example.text for example in examples]
        pairs = None if config.columns.text_b is None else [example.text_b for example in examples]  # type: ignore[union-attr]
        encoded = tokenizer(texts, pairs, truncation="longest_first", max_length=config.row_tokens)
        types = encoded.get("token_type_ids")
        rows = [
            Row(ids, types[index] if types else [0] * len(ids), {"labels": example.label}, index)  # type: ignore[union-attr]
            for index, (example, ids) in enumerate(zip(examples, encoded["input_ids"], strict=True))
        ]
        num_cut = count_cut(encoded)
        return EncodedExamples(rows, num_cut, cut_message(config, num_cut, len(examples)))

    def score(
        self, logits: Sequence[Tensor], rows: Sequence[Row], examples: Sequence[Example], labels: Sequence[str]
    ) -> dict[str, float]:
        expected = [example.label for example in examples if isinstance(example, Classified)]
        return score_classes(expected, [int(row.argmax()) for row in logits], len(labels))

    def answers(
        self, logits: Sequence[Tensor], rows: Sequence[Row], examples: Sequence[Example], labels: Sequence[str]
    ) -> list[dict[str, Any]]:
        """`label`, by its name."""
        return [{"label": labels[int(row.argmax())]} for row in logits]

    def probabilities(
        self, logits: Sequence[Tensor], rows: Sequence[Row], examples: Sequence[Example], labels: Sequence[str]
    ) -> list[Any]:
        """The probability of every label, by label."""
        return [dict(zip(labels, shares(row), strict=True)) for row in logits]


class Pair(Sentence):
    """Two texts and their class."""

    has_second_text = True


class Coreference(Sentence):
    """CLUEWSC's records: a text with two spans, and whether they mean the same."""

    formats = ("json_lines",)

    def example(self, record: Record, columns: Columns) -> Classified:
        return Classified(_marked(record), None, -1)


def _marked(record: Record) -> str:
    """Return CLUEWSC's text with _ around its first span and [ ] around its second, as in CLUE's own baseline."""
    where, values = record
    try:
        text, target = values["text"], values["target"]
        marks = (1, ("_", "_")), (2, ("[", "]"))
        spans = [(check_index(target[f"span{n}_index"]), str(target[f"span{n}_text"]), pair) for n, pair in marks]
    except (KeyError, TypeError) as error:
        form = '{"text", "target": {"span1_index", "span1_text", ..}}'
        raise ValueError(f"{where}: must be like {form}: {error}") from None
    text, inserts = check_text(where, "text", text), []
    for start, words, (opening, closing) in spans:
        end = start + len(words)
        if start < 0 or text[start:end] != words:
            raise ValueError(f"{where}: span {words!r} is not the text at position {start}")
        # At the same position, closing marks come before opening ones; of nested spans the outer opens first.
        inserts += [(start, 1, -end, opening), (end, 0, -start, closing)]
    for place, *_, mark in sorted(inserts, reverse=True):
        text = f"{text[:place]}{mark}{text[place:]}"
    return text
