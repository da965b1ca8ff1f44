"""Cleaned texts of a source, for uses that need no corpus: training a vocabulary, measuring its coverage."""

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice

from corpus.cleaning.cleaner import Cleaner
from corpus.config import SourceConfig
from corpus.document import Reason, Reject, hints
from corpus.source import find_inputs, read_source


def read_texts(source: SourceConfig) -> Iterator[str]:
    """Yield the cleaned texts of a source in order, duplicates included. Warn of rejected documents at the end.

    Raises ValueError for inputs that cannot be read to their end, and if no text is left.
    """
    rejected: Counter[Reason] = Counter()
    num_texts, example, cleaner = 0, "", Cleaner(source.cleaning)
    for part in find_inputs(source):
        for item in read_source(source, part):
            cleaned = item if isinstance(item, Reject) else cleaner.clean(item)
            if isinstance(cleaned, Reject):
                rejected[cleaned.reason] += 1
                example = example or cleaned.label
                continue
            num_texts += 1
            yield cleaned.text
    reasons = ", ".join(f"{reason} {count}" for reason, count in rejected.most_common())
    if not num_texts:
        why = f"{reasons}, e.g. {example}" if rejected else "they hold only blank lines"
        raise ValueError(f"{source.name}: no text in the inputs ({why}){hints(rejected)}")
    if rejected:
        warnings.warn(f"{source.name}: documents left out: {reasons}, e.g. {example}", stacklevel=2)


def text_batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Yield lists of 256 texts, a good size for the tokenizers."""
    remaining = iter(texts)
    while batch := list(islice(remaining, 256)):
        yield batch
