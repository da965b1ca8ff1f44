"""The normalised texts of one source, for what needs text and no corpus: vocabularies and their coverage."""

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice

from corpus.document import Document, Reason, Reject
from corpus.formats import read_documents
from corpus.normalization import normalize
from corpus.settings import SourceConfig
from corpus.sources import find_parts, read_lines


def read_texts(source: SourceConfig) -> Iterator[str]:
    """Texts in the order of the inputs, empty ones left out, duplicates not. Warns of rejects, at the end.

    Raises ValueError for inputs that cannot be read to their end, and when no text comes of them.
    """
    rejected: Counter[Reason] = Counter()
    num_texts, example = 0, ""
    for part in find_parts(source.inputs):
        lines = read_lines(part, len)
        for item in read_documents(source.format, lines, part.name, source.text_fields, source.id_field):
            text = normalize(item.text) if isinstance(item, Document) else ""
            if text:
                num_texts += 1
                yield text
                continue
            rejected[item.reason if isinstance(item, Reject) else Reason.EMPTY] += 1
            example = example or item.label
    reasons = ", ".join(f"{reason} {count}" for reason, count in rejected.most_common())
    if not num_texts:
        raise ValueError(f"{source.name}: no text in the inputs ({reasons or 'they hold only blank lines'})")
    if rejected:
        warnings.warn(f"{source.name}: documents left out: {reasons}, e.g. {example}", stacklevel=2)


def text_batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Texts some hundreds at a time, as the tokenizers like them."""
    remaining = iter(texts)
    while batch := list(islice(remaining, 256)):
        yield batch
