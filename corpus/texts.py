"""The cleaned texts of one source, for what needs text and no corpus: vocabularies and their coverage."""

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice

from corpus.cleaning import Cleaner
from corpus.document import Reason, Reject, hints
from corpus.formats import read_documents
from corpus.inputs import find_inputs
from corpus.settings import SourceConfig
from corpus.sources import read_streams


def read_texts(source: SourceConfig) -> Iterator[str]:
    """Texts in the order of the inputs, empty ones left out, duplicates not. Warns of rejects, at the end.

    Raises ValueError for inputs that cannot be read to their end, and when no text comes of them.
    """
    rejected: Counter[Reason] = Counter()
    num_texts, example, cleaner = 0, "", Cleaner(source.cleaning)
    for part in find_inputs(source):
        for name, lines in read_streams(part, len):
            for item in read_documents(
                source.format, lines, name, source.text_fields, source.id_field, source.origin_field, source.encoding
            ):
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
    """Texts some hundreds at a time, as the tokenizers like them."""
    remaining = iter(texts)
    while batch := list(islice(remaining, 256)):
        yield batch
