"""A unit's second step: its documents, without those that are dropped, to token ids in shards of its own.

As reading, a pure function, done once: of what was read, what is dropped, and the tokenizer.
"""

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import xxhash

from corpus import block
from corpus.commit import Result, load_result, save_result
from corpus.document import Reason
from corpus.duplicates import load_drops
from corpus.ledger import Ledger, Tally
from corpus.manifest import BlockTable, ShardRecord
from corpus.plan import Plan
from corpus.shard import ShardWriter
from corpus.spool import Spool
from corpus.tokenizer import TextEncoder, load_tokenizer, tokenizer_fingerprint
from corpus.unit import OnBytes, load_read_unit, read_folder
from corpus.words import encode_with_words

Encoded = tuple[np.ndarray, np.ndarray | None]  # ids of a document, and its word plane in a corpus that has them


class EncodedUnit(Result):
    """What encoding a unit gave.

    The blocks' `shard` counts from the unit's own first. Their `source` says nothing: sources may be numbered anew
    by the time the units are put together.
    """

    tally: Tally
    shards: list[ShardRecord]
    blocks: BlockTable


class BlockWriter:
    """Collects documents' ids into blocks of shards in a folder, and the table of them."""

    def __init__(self, folder: Path) -> None:
        self._shards = ShardWriter(folder)
        self._columns: dict[str, list] = {name: [] for name in BlockTable.model_fields}
        self._pending: list[np.ndarray] = []
        self._planes: list[np.ndarray] = []
        self._num_bytes = 0

    def write(self, ids: np.ndarray, continues_word: np.ndarray | None = None) -> None:
        """A document, and its word plane in a corpus that has them."""
        self._pending.append(ids)
        if continues_word is not None:
            self._planes.append(continues_word)
        self._num_bytes += ids.nbytes
        if self._num_bytes >= block.TARGET_BYTES:
            self._write_block()

    def _write_block(self) -> None:
        frame = block.pack(self._pending, self._planes or None)
        shard, offset = self._shards.write(frame)
        num_tokens = sum(map(len, self._pending))
        row = (0, shard, offset, len(frame), num_tokens, len(self._pending), block.checksum(frame))
        for column, value in zip(self._columns.values(), row, strict=True):
            column.append(value)
        self._pending, self._planes, self._num_bytes = [], [], 0

    def close(self) -> tuple[list[ShardRecord], BlockTable]:
        """Writes what is left and syncs the shards."""
        if self._pending:
            self._write_block()
        self._shards.close()
        return self._shards.shards, BlockTable(**self._columns)


def encoded_folder(work: Path, index: int) -> Path:
    return work / f"encoded-{index:05d}"


def load_encoded_unit(plan: Plan, work: Path, index: int) -> EncodedUnit | None:
    """The result of `encode_unit`; None where there is none, or one of other documents."""
    return load_result(EncodedUnit, encoded_folder(work, index), _key(plan, work, index))


def _key(plan: Plan, work: Path, index: int) -> str:
    drops = load_drops(work, index)
    settings = (plan.tokenizer.fingerprint, plan.fast_tokenizing, plan.config.whole_words)
    state = [plan.key(index), *settings, *drops.items()]
    return xxhash.xxh3_128_hexdigest(" ".join(map(str, state)).encode())


def encode_unit(plan: Plan, work: Path, index: int, on_bytes: OnBytes) -> EncodedUnit:
    """Tokenises and packs a unit that was read and compared. `on_bytes` hears of progress, in bytes as stored.

    Raises ValueError if it was not read or compared yet, or if the tokenizer has changed; UnequalIds where the fast
    path of tokenising turns out wrong: then no unit may be encoded by it.
    """
    if done := load_encoded_unit(plan, work, index):
        return done
    key = _key(plan, work, index)
    return save_result(encoded_folder(work, index), lambda folder: _encode(plan, work, index, key, folder, on_bytes))


def _encode(plan: Plan, work: Path, index: int, key: str, folder: Path, on_bytes: OnBytes) -> EncodedUnit:
    unit = plan.units[index]
    spool = Spool(read_folder(work, index), load_read_unit(plan, work, index).frames)
    ledger = Ledger()
    writer = BlockWriter(folder)
    for documents in _kept(spool, load_drops(work, index), ledger):
        for ids, continues_word in _encode_batch(documents, plan, ledger):
            writer.write(ids, continues_word)
            ledger.documents += 1
        on_bytes(unit.num_bytes // spool.num_batches)
    shards, blocks = writer.close()
    tally = ledger.tally(plan.config.sources[unit.source].name)
    return EncodedUnit(key=key, tally=tally, shards=shards, blocks=blocks)


def _kept(spool: Spool, drops: dict[int, Reason], ledger: Ledger) -> Iterator[list[tuple[str, str]]]:
    """Labels and texts of the documents that are not dropped, batch by batch."""
    for first, documents in spool.batches():
        ledger.documents_in += len(documents)
        kept = []
        for number, (label, text) in enumerate(documents, first):
            if number in drops:
                ledger.reject(drops[number], label)
            else:
                kept.append((label, text))
        yield kept


def _encode_batch(documents: list[tuple[str, str]], plan: Plan, ledger: Ledger) -> Iterator[Encoded]:
    encoder = _encoder(plan.tokenizer.name, plan.tokenizer.fingerprint, plan.fast_tokenizing)
    texts = [text for _, text in documents]
    encoded: list[Encoded]
    if plan.config.whole_words:
        encoded = list(encode_with_words(encoder, texts))
    else:
        encoded = [(ids, None) for ids in encoder.encode(texts)]
    if encoded:
        every = np.concatenate([ids for ids, _ in encoded])
        ledger.unk_tokens += int(np.count_nonzero(every == plan.tokenizer.unk_token_id))
    for (label, text), (ids, continues_word) in zip(documents, encoded, strict=True):
        if not len(ids):
            ledger.reject(Reason.NO_TOKENS, label)
            continue
        ledger.characters += len(text)
        ledger.tokens += len(ids)
        yield ids, continues_word


@functools.lru_cache(maxsize=1)
def _encoder(name: str, fingerprint: str, fast: bool) -> TextEncoder:
    """The plan's tokenizer, loaded once a process."""
    tokenizer = load_tokenizer(name)
    if tokenizer_fingerprint(tokenizer) != fingerprint:
        raise ValueError(f"tokenizer {name!r}: is not the one that the build was planned with")
    return TextEncoder(tokenizer, fast=fast)
