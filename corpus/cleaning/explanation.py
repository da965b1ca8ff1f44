"""A preview of cleaning: how many documents of a source each rule changes or drops, with examples.

Reads all of the source and writes nothing. Duplicates are found only by a build, whose manifest counts them.
"""

from collections import Counter
from collections.abc import Iterable

from corpus.cleaning.cleaner import Cleaner
from corpus.config import SourceConfig
from corpus.document import Change, Document, Reason, Reject, excerpt
from corpus.reading.parts import Part
from corpus.reading.streams import OnBytes
from corpus.source import read_source

_NUM_EXAMPLES = 5
_MARGIN_CHARACTERS = 15
_MAX_SHOWN_CHARACTERS = 60


class Explanation:
    """Counts and first examples of one source; `str` formats them. documents_in = documents + all rejected."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.documents_in = self.documents = 0
        self.changed: Counter[Change] = Counter()
        self.rejected: Counter[Reason] = Counter()
        self.examples: dict[Change | Reason, list[str]] = {}

    def add(self, item: Document | Reject, cleaner: Cleaner) -> None:
        """Clean one item of the source and count what happens to it."""
        self.documents_in += 1
        result = cleaner.clean(item) if isinstance(item, Document) else item
        if isinstance(result, Reject):
            self.rejected[result.reason] += 1
            self._add_example(result.reason, f"{result.label}: {result.excerpt}")
            return
        self.documents += 1
        self.changed.update(result.changes)
        if isinstance(item, Document) and self._wants(result.changes):
            for change, before, after in cleaner.changes(item.text):
                self._add_example(change, f"{item.label}: {_difference(before, after)}")
            for change in item.changes:
                self._add_example(change, f"{item.label}: {excerpt(item.text)}")

    def _wants(self, rules: Iterable[Change]) -> bool:
        return any(len(self.examples.get(rule, ())) < _NUM_EXAMPLES for rule in rules)

    def _add_example(self, rule: Change | Reason, example: str) -> None:
        examples = self.examples.setdefault(rule, [])
        if len(examples) < _NUM_EXAMPLES:
            examples.append(example)

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.documents_in:,} documents in, {self.documents:,} keep every rule"]
        for title, counts in (("changed", self.changed), ("rejected", self.rejected)):
            for rule, count in counts.most_common():
                lines.append(f"  {title} {rule.value}: {count:,} ({count / self.documents_in:.2%})")
                lines += (f"      {example}" for example in self.examples[rule])
        return "\n".join(lines)


def explain_source(source: SourceConfig, parts: Iterable[Part], on_bytes: OnBytes) -> Explanation:
    """Read all of a source and count what its rules do.

    Args:
        parts: from `find_inputs`.
        on_bytes: called with the number of bytes read, to show progress.

    Raises ValueError for inputs that cannot be read to their end.
    """
    explanation, cleaner = Explanation(source.name), Cleaner(source.cleaning)
    for part in parts:
        for item in read_source(source, part, lambda data: on_bytes(len(data))):
            explanation.add(item, cleaner)
    return explanation


def _difference(before: str, after: str) -> str:
    """The first place where two texts differ, with some context: `'before' -> 'after'`."""
    start = max(_num_common(before, after) - _MARGIN_CHARACTERS, 0)
    before, after = before[start:], after[start:]
    cut = max(_num_common(before[::-1], after[::-1]) - _MARGIN_CHARACTERS, 0)
    return " -> ".join(repr(text[: len(text) - cut][:_MAX_SHOWN_CHARACTERS]) for text in (before, after))


def _num_common(one: str, other: str) -> int:
    """Length of the common prefix of two texts."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (left, right) in pairs if left != right), min(len(one), len(other)))
