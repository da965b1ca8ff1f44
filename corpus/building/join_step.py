"""The join step: the encoded units become one corpus. Sum counts by source, number shards, build the manifest."""

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import xxhash

from corpus.building.encode_step import EncodedUnit, encoded_folder, load_encoded_unit
from corpus.building.ledger import Ledger
from corpus.building.plan import Plan, Segment
from corpus.building.read_step import load_read_unit
from corpus.document import hints
from corpus.reading.parts import Part
from corpus.reading.streams import OnBytes, hash_stored
from corpus.shards.manifest import (
    FORMAT_VERSION,
    BlockTable,
    Counts,
    InputRecord,
    Manifest,
    ShardRecord,
    SourceRecord,
    TestRecord,
    corpus_fingerprint,
    total_counts,
)

_MAX_INPUT_RECORDS = 10_000  # of a source, to limit the size of the manifest, which every rank reads


def build_manifest(plan: Plan, work: Path, folder: Path) -> Manifest:
    """Link the shards of all encoded units into a folder and return the manifest of the corpus.

    Raises ValueError if a unit is not encoded yet, or if no document is left.
    """
    units = [_load_encoded(plan, work, index) for index in range(len(plan.units))]
    sources = _close_sources(plan, work, units)
    totals = total_counts(sources)
    if not totals.documents:
        raise ValueError(_no_document(totals, sources))
    shards, blocks = _join_blocks(plan, work, units, folder)
    return Manifest(
        format_version=FORMAT_VERSION,
        fingerprint=corpus_fingerprint(plan.tokenizer, blocks),
        tokenizer=plan.tokenizer,
        sources=sources,
        near_duplicates=plan.config.near_duplicates,
        decontamination=_test_records(plan),
        totals=totals,
        shards=shards,
        blocks=blocks,
        has_word_planes=plan.config.whole_words,
    )


def _join_blocks(
    plan: Plan, work: Path, units: list[EncodedUnit], folder: Path
) -> tuple[list[ShardRecord], BlockTable]:
    shards: list[ShardRecord] = []
    columns: dict[str, list] = {name: [] for name in BlockTable.model_fields}
    for index, unit in enumerate(units):
        numbered = {
            "source": [plan.units[index].source] * len(unit.blocks),
            "shard": [len(shards) + shard for shard in unit.blocks.shard],
        }
        blocks = unit.blocks.model_copy(update=numbered)
        for name, column in columns.items():
            column += getattr(blocks, name)
        for shard in unit.shards:
            name = f"shard-{len(shards):05d}.bin"
            _link(encoded_folder(work, unit.key) / shard.name, folder / name)
            shards.append(ShardRecord(name=name, num_bytes=shard.num_bytes))
    return shards, BlockTable(**columns)


def _load_encoded(plan: Plan, work: Path, index: int) -> EncodedUnit:
    unit = load_encoded_unit(plan, work, index)
    if unit is None:
        raise ValueError(f"{work}: unit {index} is not encoded yet; run --encode-unit {index}")
    return unit


def _link(source: Path, target: Path) -> None:
    """Link, not move, so that the step can be repeated after a kill."""
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def _close_sources(plan: Plan, work: Path, units: list[EncodedUnit]) -> list[SourceRecord]:
    ledgers = [Ledger() for _ in plan.config.sources]
    hashed: list[list[tuple[Segment, str]]] = [[] for _ in plan.config.sources]
    for index, (unit, encoded) in enumerate(zip(plan.units, units, strict=True)):
        read = load_read_unit(plan, work, index)
        ledgers[unit.source].add(read.tally, encoded.tally)
        hashed[unit.source] += zip(unit.segments, read.hashes, strict=True)
    return [
        ledger.close(source, _input_records(pairs))
        for source, ledger, pairs in zip(plan.config.sources, ledgers, hashed, strict=True)
    ]


def _test_records(plan: Plan) -> tuple[TestRecord, ...]:
    return tuple(
        TestRecord(**source.model_dump(exclude={"inputs"}), inputs=read_inputs(segments, lambda _: None))
        for source, segments in zip(plan.config.decontamination, plan.tests, strict=True)
    )


def read_inputs(segments: Sequence[Segment], on_bytes: OnBytes) -> list[InputRecord]:
    """Read inputs and return their records, to compare them with those of a manifest."""
    hashes = [hash_stored(segment.part, segment.start, segment.end, on_bytes) for segment in segments]
    return _input_records(zip(segments, hashes, strict=True))


def _input_records(hashed: Iterable[tuple[Segment, str]]) -> list[InputRecord]:
    hashes: dict[Part, list[str]] = {}
    for segment, hash in hashed:
        hashes.setdefault(segment.part, []).append(hash)
    records = [
        InputRecord(name=part.name, num_bytes=part.num_bytes, hash=many[0] if len(many) == 1 else _hash_of(many))
        for part, many in hashes.items()
    ]
    if len(records) <= _MAX_INPUT_RECORDS:
        return records
    together = _hash_of(f"{record.name}\n{record.num_bytes} {record.hash}\n" for record in records)
    name = f"{len(records):,} files, {records[0].name} to {records[-1].name}"
    return [InputRecord(name=name, num_bytes=sum(record.num_bytes for record in records), hash=together)]


def _hash_of(texts: Iterable[str]) -> str:
    return xxhash.xxh3_64_hexdigest("".join(texts).encode())


def _no_document(totals: Counts, sources: list[SourceRecord]) -> str:
    reasons = ", ".join(f"{reason} {count}" for reason, count in totals.rejected.items())
    examples = [label for source in sources for labels in source.examples.values() for label in labels]
    if not examples:
        return "no document in the inputs: they hold only blank lines"
    advice = hints(totals.rejected)
    return f"no document survived of {totals.documents_in} ({reasons}), e.g. {', '.join(examples[:3])}{advice}"
