"""Raw files to a finished corpus: read, normalise, drop duplicates, tokenise, pack, account for all."""

import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from tqdm import tqdm

from corpus import block
from corpus.document import Document, Reason, Reject
from corpus.formats import read_documents
from corpus.ledger import Ledger
from corpus.manifest import (
    FILE_NAME,
    FORMAT_VERSION,
    BlockTable,
    Counts,
    InputRecord,
    Manifest,
    SourceRecord,
    TokenizerRecord,
    build_tokenizer_record,
    corpus_fingerprint,
    load_manifest,
    save_manifest,
    sync_folder,
    total_counts,
)
from corpus.normalization import normalize
from corpus.settings import CorpusConfig, SourceConfig, SourceSettings
from corpus.shard import ShardWriter
from corpus.sources import Part, find_parts, read_lines, read_stored
from corpus.tokenizer import TextEncoder, UnequalIds, load_tokenizer

_BATCH_CHARACTERS = 1 << 20
_BATCH_DOCUMENTS = 2048


class CorpusWriter:
    """Adds sources one after another to shards in a folder; duplicates are exact and across all sources."""

    def __init__(self, tokenizer: Any, folder: Path, *, fast: bool = True) -> None:
        self._encoder = TextEncoder(tokenizer, fast=fast)
        self._unk_id = tokenizer.unk_token_id
        self._shards = ShardWriter(folder)
        self._seen: set[bytes] = set()
        self._columns: dict[str, list] = {name: [] for name in BlockTable.model_fields}
        self._sources: list[SourceRecord] = []

    def add_source(self, source: SourceConfig, parts: list[Part], on_bytes: Callable[[int], Any]) -> None:
        ledger = Ledger()
        admitted = self._admit(_read_source(source, parts, ledger, on_bytes), ledger)
        pending: list[np.ndarray] = []
        num_bytes = 0
        for ids in self._encode(admitted, ledger):
            pending.append(ids)
            num_bytes += ids.nbytes
            if num_bytes >= block.TARGET_BYTES:
                self._write_block(pending, ledger)
                pending, num_bytes = [], 0
        if pending:
            self._write_block(pending, ledger)
        self._sources.append(ledger.close(source))

    def _admit(self, items: Iterable[Document | Reject], ledger: Ledger) -> Iterator[Document]:
        """Documents that are text and new, normalised."""
        for item in items:
            ledger.documents_in += 1
            if isinstance(item, Reject):
                ledger.reject(item.reason, item.label)
                continue
            text = normalize(item.text)
            digest = xxhash.xxh3_128_digest(text.encode())
            if not text:
                ledger.reject(Reason.EMPTY, item.label)
            elif digest in self._seen:
                ledger.reject(Reason.DUPLICATE, item.label)
            else:
                self._seen.add(digest)
                yield Document(text, item.place, item.id)

    def _encode(self, documents: Iterable[Document], ledger: Ledger) -> Iterator[np.ndarray]:
        """Ids of each document, in order; the next batch is read while the last is tokenised."""
        for batch, encoded in _overlap(self._encoder, _batches(documents)):
            for document, ids in zip(batch, encoded, strict=True):
                if not len(ids):
                    ledger.reject(Reason.NO_TOKENS, document.label)
                    continue
                ledger.characters += len(document.text)
                ledger.unk_tokens += int(np.count_nonzero(ids == self._unk_id))
                yield ids

    def _write_block(self, documents: list[np.ndarray], ledger: Ledger) -> None:
        frame = block.pack(documents)
        shard, offset = self._shards.write(frame)
        num_tokens = sum(map(len, documents))
        ledger.documents += len(documents)
        ledger.tokens += num_tokens
        row = (
            len(self._sources), shard, offset, len(frame), num_tokens, len(documents), block.checksum(frame)
        )  # fmt: skip
        for column, value in zip(self._columns.values(), row, strict=True):
            column.append(value)

    def close(self, tokenizer: TokenizerRecord) -> Manifest:
        """Syncs the shards; ValueError if no document survived."""
        self._shards.close()
        totals = total_counts(self._sources)
        if not totals.documents:
            raise ValueError(_no_document(totals, self._sources))
        blocks = BlockTable(**self._columns)
        return Manifest(
            format_version=FORMAT_VERSION,
            fingerprint=corpus_fingerprint(tokenizer, blocks),
            tokenizer=tokenizer,
            sources=self._sources,
            totals=totals,
            shards=self._shards.shards,
            blocks=blocks,
        )


def _no_document(totals: Counts, sources: list[SourceRecord]) -> str:
    reasons = ", ".join(f"{reason} {count}" for reason, count in totals.rejected.items())
    examples = [label for source in sources for labels in source.examples.values() for label in labels]
    if not examples:
        return "no document in the inputs: they hold only blank lines"
    return f"no document survived of {totals.documents_in} ({reasons}), e.g. {', '.join(examples[:3])}"


def _read_source(
    source: SourceConfig, parts: list[Part], ledger: Ledger, on_bytes: Callable[[int], Any]
) -> Iterator[Document | Reject]:
    for part in parts:
        hasher = xxhash.xxh3_64()

        def count(data: bytes, hasher: Any = hasher) -> None:
            hasher.update(data)
            on_bytes(len(data))

        yield from read_documents(
            source.format, read_lines(part, count), part.name, source.text_fields, source.id_field
        )
        ledger.inputs.append(InputRecord(name=part.name, num_bytes=part.num_bytes, hash=hasher.hexdigest()))


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    num_characters = 0
    for document in documents:
        batch.append(document)
        num_characters += len(document.text)
        if num_characters >= _BATCH_CHARACTERS or len(batch) == _BATCH_DOCUMENTS:
            yield batch
            batch, num_characters = [], 0
    if batch:
        yield batch


def _overlap(
    encoder: TextEncoder, batches: Iterable[list[Document]]
) -> Iterator[tuple[list[Document], list[np.ndarray]]]:
    with ThreadPoolExecutor(max_workers=1) as pool:
        last = None
        for batch in batches:
            future = pool.submit(encoder.encode, [document.text for document in batch])
            if last:
                yield last[0], last[1].result()
            last = batch, future
        if last:
            yield last[0], last[1].result()


def build_corpus(config: CorpusConfig) -> tuple[Manifest, bool]:
    """Builds the corpus of a configuration; its manifest, and whether it was built now or was there already.

    Nothing stands in the output folder until all of it does. Raises ValueError for inputs, tokenizers and
    outputs that cannot be used; an output folder that holds another build is never touched.
    """
    tokenizer = load_tokenizer(config.tokenizer)
    record = build_tokenizer_record(config.tokenizer, tokenizer)
    parts = [find_parts(source.inputs) for source in config.sources]
    output = Path(config.output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        return _existing(config, record, parts, output), False
    try:
        _build(config, tokenizer, record, parts, fast=True)
    except UnequalIds as error:
        warnings.warn(f"{error}; the whole corpus is built anew with the tokenizer alone, slowly", stacklevel=2)
        _build(config, tokenizer, record, parts, fast=False)
    sync_folder(output.parent)
    return load_manifest(output), True


def _build(
    config: CorpusConfig, tokenizer: Any, record: TokenizerRecord, parts: list[list[Part]], *, fast: bool
) -> None:
    output = Path(config.output)
    partial = _new_partial_folder(output)
    try:
        writer = CorpusWriter(tokenizer, partial, fast=fast)
        with _progress(parts, "building") as bar:
            for source, found in zip(config.sources, parts, strict=True):
                bar.set_postfix_str(source.name)
                writer.add_source(source, found, bar.update)
        save_manifest(writer.close(record), partial)
        partial.rename(output)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _progress(parts: list[list[Part]], what: str) -> tqdm:
    total = sum(part.num_bytes for found in parts for part in found)
    return tqdm(total=total, unit="B", unit_scale=True, desc=what, disable=None)


def _new_partial_folder(output: Path) -> Path:
    partial = output.with_name(output.name + ".partial")
    if partial.exists():
        foreign = [
            path.name for path in partial.iterdir() if not path.name.startswith(("shard-", FILE_NAME)) or path.is_dir()
        ]
        if foreign:
            raise ValueError(f"{partial}: is needed for building, but holds other files: {', '.join(foreign[:3])}")
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    return partial


def _existing(config: CorpusConfig, record: TokenizerRecord, parts: list[list[Part]], output: Path) -> Manifest:
    """The manifest of an output folder that holds just this build; the inputs are read again to know."""
    if not (output / FILE_NAME).is_file():
        raise ValueError(f"{output}: is not empty and holds no corpus; choose another output folder")
    manifest = load_manifest(output)
    refusal = f"{output}: holds another corpus ({{}}); remove it or choose another output folder"
    if manifest.tokenizer.fingerprint != record.fingerprint:
        raise ValueError(refusal.format("its tokenizer differs"))
    wanted = [source.model_dump(exclude={"inputs"}) for source in config.sources]
    there = [source.model_dump(include=set(SourceSettings.model_fields)) for source in manifest.sources]
    if wanted != there:
        raise ValueError(refusal.format("its sources or their settings differ"))
    with _progress(parts, "comparing") as bar:
        for source, found in zip(manifest.sources, parts, strict=True):
            if [_read_input(part, bar) for part in found] != source.inputs:
                raise ValueError(refusal.format(f"the inputs of {source.name} have changed"))
    return manifest


def _read_input(part: Part, bar: tqdm) -> InputRecord:
    hasher = xxhash.xxh3_64()
    for chunk in read_stored(part):
        hasher.update(chunk)
        bar.update(len(chunk))
    return InputRecord(name=part.name, num_bytes=part.num_bytes, hash=hasher.hexdigest())
