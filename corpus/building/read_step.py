"""The read step: read and clean the documents of a unit, and compute the keys to compare them by.

The result is a pure function of the plan, so it is computed once and reused, by any engine, anywhere, in any order.
The documents of all units are then matched (match_step.py), and each unit is encoded (encode_step.py).
"""

import functools
import warnings
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

import numpy as np
import xxhash

from corpus.building.ledger import Ledger, Tally
from corpus.building.plan import Plan, Segment
from corpus.building.unit_documents import DocumentWriter, Frame, hash_document
from corpus.building.work_folder import Result, load_result, save_result
from corpus.cleaning.cleaner import Cleaner
from corpus.cleaning.contamination import TestTexts
from corpus.cleaning.shingles import build_bands, hash_shingles
from corpus.config import SourceConfig
from corpus.document import Document, Reason, Reject
from corpus.reading.streams import OnBytes, check_unchanged, hash_stored
from corpus.source import read_source

_BATCH_CHARACTERS = 1 << 17
_BATCH_DOCUMENTS = 2048


class ReadUnit(Result):
    """The result of reading a unit. `hashes` are the XXH3-64 of its segments."""

    tally: Tally
    hashes: list[str]
    frames: list[Frame]


def read_folder(work: Path, key: str) -> Path:
    """Return the folder of a unit that was read, named by the unit's key: it outlives changes of other inputs."""
    return work / f"read-{key}"


def read_unit(plan: Plan, work: Path, index: int, on_bytes: OnBytes) -> ReadUnit:
    """Read and clean the documents of a unit, and write them with their keys into the work folder.

    Args:
        on_bytes: called with the number of bytes read, to show progress.

    Raises ValueError for an input that cannot be read to its end or has changed since the plan.
    """
    key = plan.key(index)
    if done := _load(plan, work, index):
        return done
    return save_result(read_folder(work, key), lambda partial: _read(plan, index, key, partial, on_bytes))


def load_read_unit(plan: Plan, work: Path, index: int) -> ReadUnit:
    """Load the result of `read_unit`. Raise ValueError if there is none."""
    done = _load(plan, work, index)
    if done is None:
        raise ValueError(f"{work}: unit {index} is not read yet; run --read-unit {index}")
    return done


def _load(plan: Plan, work: Path, index: int) -> ReadUnit | None:
    """The result if there is one, and it skipped nothing that is to stop the build now."""
    key = plan.key(index)
    done = load_result(ReadUnit, read_folder(work, key), key)
    stops = plan.config.sources[plan.units[index].source].on_bad_input == "stop"
    return None if done and stops and done.tally.bad_inputs else done


def _read(plan: Plan, index: int, key: str, folder: Path, on_bytes: OnBytes) -> ReadUnit:
    unit = plan.units[index]
    source = plan.config.sources[unit.source]
    ledger = Ledger()
    hashes: list[str] = []
    writer = DocumentWriter(folder)
    tests = _test_texts(plan.model_copy(update={"units": ()}).model_dump_json()) if plan.tests else None
    items = _read_segments(source, unit.segments, hashes, on_bytes)
    cleaner = Cleaner(source.cleaning)
    for raw in _batches(items):
        batch = list(_kept(cleaner.clean_batch(raw), ledger))
        if not batch:
            continue
        texts = [document.text for document in batch]
        keys = np.array([hash_document(d.text, d.id, source.name) for d in batch], dtype=np.uint64)
        keep = np.ones(len(batch), dtype=bool)
        if tests or plan.config.near_duplicates:
            shingles = hash_shingles(texts)
            keep = ~tests.find(*shingles) if tests else keep
            keys = np.hstack([keys, build_bands(*shingles)]) if plan.config.near_duplicates else keys
        for document in (document for document, kept in zip(batch, keep, strict=True) if not kept):
            ledger.reject(Reason.CONTAMINATED, document.label)
        kept_documents = [(d.label, d.text) for d, kept in zip(batch, keep, strict=True) if kept]
        writer.write(kept_documents, keys[keep])
        ledger.documents += len(kept_documents)
    writer.close()
    return ReadUnit(key=key, tally=ledger.tally(source.name), hashes=hashes, frames=writer.frames)


def _read_segments(
    source: SourceConfig, segments: Iterable[Segment], hashes: list[str], on_bytes: OnBytes
) -> Iterator[Document | Reject]:
    for _, group in groupby(segments, lambda segment: (segment.part.path, segment.part.version)):
        of_file = list(group)  # maybe thousands of members of an archive, which is checked only twice
        check_unchanged(of_file[0].part)
        for segment in of_file:
            hasher = xxhash.xxh3_64()
            is_bad = False
            for item in _read_segment(source, segment, hasher, on_bytes):
                is_bad = is_bad or (isinstance(item, Reject) and item.reason == Reason.UNREADABLE)
                yield item
            # What could not be read to its end is hashed as stored, as the inputs of a finished corpus are.
            hashes.append(hash_stored(segment.part, segment.start, segment.end) if is_bad else hasher.hexdigest())
        check_unchanged(of_file[0].part)


def _read_segment(
    source: SourceConfig, segment: Segment, hasher: xxhash.xxh3_64, on_bytes: OnBytes
) -> Iterator[Document | Reject]:
    def count(data: bytes) -> None:
        hasher.update(data)
        on_bytes(len(data))

    return read_source(source, segment.part, count, segment.start, segment.end)


def _kept(items: Iterable[Document | Reject], ledger: Ledger) -> Iterator[Document]:
    """Yield the documents, and count every item in the ledger."""
    for item in items:
        ledger.documents_in += 1
        if isinstance(item, Reject):
            ledger.reject(item.reason, item.label)
        else:
            ledger.changed.update(item.changes)
            yield item


def _batches(items: Iterable[Document | Reject]) -> Iterator[list[Document | Reject]]:
    batch: list[Document | Reject] = []
    num_characters = 0
    for item in items:
        batch.append(item)
        num_characters += len(item.text) if isinstance(item, Document) else 0
        if num_characters >= _BATCH_CHARACTERS or len(batch) == _BATCH_DOCUMENTS:
            yield batch
            batch, num_characters = [], 0
    if batch:
        yield batch


@functools.lru_cache(maxsize=1)
def _test_texts(state: str) -> TestTexts:
    """The test sets of a plan, read once per process. `state` is the plan as JSON, because plans are not hashable."""
    plan = Plan.model_validate_json(state)
    texts = []
    for source, segments in zip(plan.config.decontamination, plan.tests, strict=True):
        cleaner = Cleaner(source.cleaning)
        for item in _read_segments(source, segments, [], lambda _: None):
            cleaned = item if isinstance(item, Reject) else cleaner.clean(item)
            if isinstance(cleaned, Reject):
                warnings.warn(f"{source.name}: {cleaned.label} has no usable text ({cleaned.reason})", stacklevel=2)
            else:
                texts.append(cleaned.text)
    return TestTexts(texts)
