"""The account of one source: every document that came in is kept, or rejected for a reason."""

import warnings
from collections import Counter
from itertools import chain

from corpus.document import Change, Reason
from corpus.manifest import InputRecord, SourceRecord
from corpus.settings import SourceConfig

_NUM_EXAMPLES = 3


class Ledger:
    """Counts of one source. In and out are counted in different places: the balance is a real check."""

    def __init__(self) -> None:
        self.documents_in = self.documents = self.characters = self.tokens = self.unk_tokens = 0
        self.rejected: Counter[Reason] = Counter()
        self.changed: Counter[Change] = Counter()
        self.examples: dict[Reason, list[str]] = {}
        self.inputs: list[InputRecord] = []

    def reject(self, reason: Reason, label: str) -> None:
        self.rejected[reason] += 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < _NUM_EXAMPLES:
            examples.append(label)

    def close(self, source: SourceConfig) -> SourceRecord:
        """The record for the manifest; RuntimeError if a document was lost, which no input may cause."""
        num_rejected = self.rejected.total()
        if self.documents_in != self.documents + num_rejected:
            raise RuntimeError(
                f"{source.name}: {self.documents_in} documents came in, "
                f"but {self.documents} were kept and {num_rejected} rejected"
            )
        if 2 * num_rejected > self.documents_in:
            reasons = ", ".join(f"{reason} {count}" for reason, count in self.rejected.most_common())
            examples = ", ".join(list(chain(*self.examples.values()))[:_NUM_EXAMPLES])
            warnings.warn(
                f"{source.name}: {num_rejected} of {self.documents_in} documents rejected ({reasons}), e.g. {examples}",
                stacklevel=2,
            )
        return SourceRecord(**source.model_dump(exclude={"inputs"}), **vars(self))
