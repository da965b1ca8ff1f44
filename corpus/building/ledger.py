"""The account of a unit or of a source: every document that came in is kept, or rejected for a reason."""

import warnings
from collections import Counter
from itertools import chain
from typing import Any

from corpus.config import SourceConfig
from corpus.document import Change, Reason, hints
from corpus.shards.manifest import Counts, InputRecord, SourceRecord

_NUM_EXAMPLES = 3
_OF_FIELDS = (Reason.FIELD_MISSING, Reason.FIELD_NOT_A_STRING)  # rather of how the source is read than of its text


class Tally(Counts):
    """Counts of a unit, with the first documents of each reason."""

    examples: dict[Reason, list[str]]


class Ledger:
    """Counts in the making. In and out are counted in different places: the balance is a real check."""

    def __init__(self) -> None:
        self.documents_in = self.documents = self.characters = self.tokens = self.unk_tokens = 0
        self.rejected: Counter[Reason] = Counter()
        self.changed: Counter[Change] = Counter()
        self.examples: dict[Reason, list[str]] = {}

    def reject(self, reason: Reason, label: str) -> None:
        self.rejected[reason] += 1
        self._add_examples(reason, [label])

    def _add_examples(self, reason: Reason, labels: list[str]) -> None:
        examples = self.examples.setdefault(reason, [])
        examples += labels[: _NUM_EXAMPLES - len(examples)]

    def add(self, first: Tally, second: Tally) -> None:
        """Adds a unit: what was read, then what became of the documents that reading kept."""
        if first.documents != second.documents_in:
            raise RuntimeError(f"{first.documents} documents were read, but {second.documents_in} came to be encoded")
        self.documents_in += first.documents_in
        self.documents += second.documents
        self.characters += second.characters
        self.tokens += second.tokens
        self.unk_tokens += second.unk_tokens
        for tally in (first, second):
            self.rejected.update(tally.rejected)
            self.changed.update(tally.changed)
            for reason, labels in tally.examples.items():
                self._add_examples(reason, labels)

    def tally(self, name: str) -> Tally:
        """What was counted; RuntimeError if a document was lost, which no input may cause."""
        num_rejected = self.rejected.total()
        if self.documents_in != self.documents + num_rejected:
            raise RuntimeError(
                f"{name}: {self.documents_in} documents came in, "
                f"but {self.documents} were kept and {num_rejected} rejected"
            )
        return Tally(**self._state())

    def _state(self) -> dict[str, Any]:
        # In the order of the reasons, for a source's order of units and stages must not show.
        return vars(self) | {
            name: {key: getattr(self, name)[key] for key in kind if key in getattr(self, name)}
            for name, kind in (("rejected", Reason), ("examples", Reason), ("changed", Change))
        }

    def close(self, source: SourceConfig, inputs: list[InputRecord]) -> SourceRecord:
        """The source's record for the manifest; warns where most of it was rejected, or a twentieth for its fields."""
        self.tally(source.name)
        num_rejected = self.rejected.total()
        most = {reason: self.documents_in / (20 if reason in _OF_FIELDS else 2) for reason in self.rejected}
        many = [reason for reason, count in self.rejected.items() if count > most[reason]]
        if 2 * num_rejected > self.documents_in or many:
            reasons = ", ".join(f"{reason} {count}" for reason, count in self.rejected.most_common())
            examples = ", ".join(list(chain(*self.examples.values()))[:_NUM_EXAMPLES])
            cures = hints(many)
            warnings.warn(
                f"{source.name}: {num_rejected} of {self.documents_in} documents rejected ({reasons}), "
                f"e.g. {examples}{cures}",
                stacklevel=2,
            )
        return SourceRecord(**source.model_dump(exclude={"inputs"}), **self._state(), inputs=inputs)
