"""Counts of a unit or a source: every document is either kept or rejected for a reason."""

import warnings
from collections import Counter
from itertools import chain
from typing import Any

from pydantic import Field

from corpus.config import SourceConfig
from corpus.document import Change, Reason, hints
from corpus.reading.archive import first_ten
from corpus.shards.manifest import Counts, InputRecord, SourceRecord

_NUM_EXAMPLES = 3
# Reasons that point to wrong field names rather than to the text
_OF_FIELDS = (Reason.FIELD_MISSING, Reason.FIELD_NOT_A_STRING)


class Tally(Counts):
    """The final counts of a unit, with the labels of the first documents rejected for each reason.

    `bad_inputs` says of every input at fault what is wrong with it.
    """

    examples: dict[Reason, list[str]]
    bad_inputs: list[str] = Field(default_factory=list)


class Ledger:
    """Counts while documents are processed. Documents in and out are counted in different places, to check the sum."""

    def __init__(self) -> None:
        self.documents_in = self.documents = self.characters = self.tokens = self.unk_tokens = 0
        self.rejected: Counter[Reason] = Counter()
        self.changed: Counter[Change] = Counter()
        self.examples: dict[Reason, list[str]] = {}
        self.bad_inputs: list[str] = []

    def reject(self, reason: Reason, label: str) -> None:
        """Count a rejected document."""
        self.rejected[reason] += 1
        self._add_examples(reason, [label])
        if reason == Reason.UNREADABLE:
            self.bad_inputs.append(label)

    def _add_examples(self, reason: Reason, labels: list[str]) -> None:
        examples = self.examples.setdefault(reason, [])
        examples += labels[: _NUM_EXAMPLES - len(examples)]

    def add(self, first: Tally, second: Tally) -> None:
        """Add the counts of a unit: of reading it, and of encoding the documents that reading kept."""
        if first.documents != second.documents_in:
            raise RuntimeError(f"{first.documents} documents were read, but {second.documents_in} reached encoding")
        self.documents_in += first.documents_in
        self.documents += second.documents
        self.characters += second.characters
        self.tokens += second.tokens
        self.unk_tokens += second.unk_tokens
        for tally in (first, second):
            self.rejected.update(tally.rejected)
            self.changed.update(tally.changed)
            self.bad_inputs += tally.bad_inputs
            for reason, labels in tally.examples.items():
                self._add_examples(reason, labels)

    def tally(self, name: str) -> Tally:
        """Return the final counts. Raise RuntimeError if a document was lost, which is a bug whatever the input."""
        num_rejected = self.rejected.total()
        if self.documents_in != self.documents + num_rejected:
            raise RuntimeError(
                f"{name}: {self.documents_in} documents came in, "
                f"but {self.documents} were kept and {num_rejected} rejected"
            )
        return Tally(**self._state())

    def _state(self) -> dict[str, Any]:
        # Sorted by reason, so that the manifest does not depend on the order of units and steps.
        return vars(self) | {
            name: {key: getattr(self, name)[key] for key in kind if key in getattr(self, name)}
            for name, kind in (("rejected", Reason), ("examples", Reason), ("changed", Change))
        }

    def close(self, source: SourceConfig, inputs: list[InputRecord]) -> SourceRecord:
        """Return the source's record for the manifest.

        Warns of inputs at fault that were skipped, and if more than half of the documents were rejected, or a twentieth
        for missing fields.
        """
        self.tally(source.name)
        if self.bad_inputs:
            count, names = len(self.bad_inputs), first_ten(self.bad_inputs, "; ")
            warnings.warn(
                f"{source.name}: {count} inputs at fault were skipped, at least in part: {names}", stacklevel=2
            )
        num_rejected = self.rejected.total()
        most = {reason: self.documents_in / (20 if reason in _OF_FIELDS else 2) for reason in self.rejected}
        many = [reason for reason, count in self.rejected.items() if count > most[reason]]
        if 2 * num_rejected > self.documents_in or many:
            reasons = ", ".join(f"{reason} {count}" for reason, count in self.rejected.most_common())
            examples = ", ".join(list(chain(*self.examples.values()))[:_NUM_EXAMPLES])
            advice = hints(many)
            warnings.warn(
                f"{source.name}: {num_rejected} of {self.documents_in} documents rejected ({reasons}), "
                f"e.g. {examples}{advice}",
                stacklevel=2,
            )
        return SourceRecord(**source.model_dump(exclude={"inputs"}), **self._state(), inputs=inputs)
