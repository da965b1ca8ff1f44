"""A unit's second step: its documents, without those that are dropped, to token ids in shards of its own.

As reading, a pure function, done once: of what was read, what is dropped, and the tokenizer.
"""

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import xxhash

from corpus.building.ledger import Ledger, Tally
from corpus.building.match_step import load_drops
from corpus.building.plan import Plan
from corpus.building.read_step import load_read_unit, read_folder
from corpus.building.unit_documents import Spool
from corpus.building.work_folder import Result, load_result, save_result
from corpus.document import Reason
from corpus.reading.parts import OnBytes
from corpus.shards.manifest import BlockTable, ShardRecord
from corpus.shards.shard import BlockWriter
from corpus.vocabulary.tokenizer import TextEncoder, load_tokenizer, tokenizer_fingerprint
from corpus.vocabulary.word_planes import encode_with_words

Encoded = tuple[np.ndarray, np.ndarray | None]  # ids of a document, and its word plane in a corpus that has them


class EncodedUnit(Result):
    """What encoding a unit gave.

    The blocks' `shard` counts from the unit's own first. Their `source` says nothing: sources may be numbered anew
    by the time the units are put together.
    """

    tally: Tally
    shards: list[ShardRecord]
    blocks: BlockTable


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
