"""The encode step: tokenise the documents of a unit, without duplicates, and write them as shards of the unit.

The result is a pure function of the documents read, the duplicates found and the tokenizer, so it is computed once and
reused.
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
from corpus.building.unit_documents import DocumentReader
from corpus.building.work_folder import Result, load_result, save_result
from corpus.document import Reason
from corpus.reading.streams import OnBytes
from corpus.shards.manifest import BlockTable, ShardRecord
from corpus.shards.shard import BlockWriter
from corpus.vocabulary.tokenizer import TextEncoder, load_tokenizer, tokenizer_fingerprint
from corpus.vocabulary.word_planes import encode_with_words

Encoded = tuple[np.ndarray, np.ndarray | None]  # ids of a document, and its word plane if the corpus has them


class EncodedUnit(Result):
    """The result of encoding a unit.

    In `blocks`, `shard` is an index into the unit's own shards, and `source` is unused: the joined corpus may number
    its sources differently.
    """

    tally: Tally
    shards: list[ShardRecord]
    blocks: BlockTable


def encoded_folder(work: Path, key: str) -> Path:
    """Return the folder of an encoded unit, named by the key of its result."""
    return work / f"encoded-{key}"


def load_encoded_unit(plan: Plan, work: Path, index: int) -> EncodedUnit | None:
    """Load the result of `encode_unit`; None if there is none, or it is out of date."""
    key = _key(plan, work, index)
    return load_result(EncodedUnit, encoded_folder(work, key), key)


def _key(plan: Plan, work: Path, index: int) -> str:
    drops = load_drops(work, index)
    settings = (plan.tokenizer.fingerprint, plan.fast_tokenizing, plan.config.whole_words)
    state = [plan.key(index), *settings, *drops.items()]
    return xxhash.xxh3_128_hexdigest(" ".join(map(str, state)).encode())


def encode_unit(plan: Plan, work: Path, index: int, on_bytes: OnBytes) -> EncodedUnit:
    """Tokenise a unit that was read and matched, and write it as shards into the work folder.

    Args:
        on_bytes: called with the bytes done, as stored, to show progress.

    Raises ValueError if the unit is not read or matched yet, or the tokenizer has changed. Raises UnequalIds if the
    fast path is found to differ from the tokenizer: then no unit may be encoded with it.
    """
    if done := load_encoded_unit(plan, work, index):
        return done
    key = _key(plan, work, index)
    return save_result(encoded_folder(work, key), lambda folder: _encode(plan, work, index, key, folder, on_bytes))


def _encode(plan: Plan, work: Path, index: int, key: str, folder: Path, on_bytes: OnBytes) -> EncodedUnit:
    unit = plan.units[index]
    read = load_read_unit(plan, work, index)
    reader = DocumentReader(read_folder(work, read.key), read.frames)
    ledger = Ledger()
    writer = BlockWriter(folder)
    for documents in _kept(reader, load_drops(work, index), ledger):
        for ids, continues_word in _encode_batch(documents, plan, ledger):
            writer.write(ids, continues_word)
            ledger.documents += 1
        on_bytes(unit.num_bytes // reader.num_batches)
    shards, blocks = writer.close()
    tally = ledger.tally(plan.config.sources[unit.source].name)
    return EncodedUnit(key=key, tally=tally, shards=shards, blocks=blocks)


def _kept(reader: DocumentReader, drops: dict[int, Reason], ledger: Ledger) -> Iterator[list[tuple[str, str]]]:
    """Yield batches of labels and texts of the documents that are not dropped."""
    for first, documents in reader.batches():
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
    if encoded and plan.tokenizer.unk_token_id is not None:
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
    """The plan's tokenizer, loaded once per process."""
    tokenizer = load_tokenizer(name)
    if tokenizer_fingerprint(tokenizer) != fingerprint:
        raise ValueError(f"tokenizer {name!r}: is not the one that the build was planned with")
    return TextEncoder(tokenizer, fast=fast)
