"""The manifest: a corpus's identity, written last; checked against itself and its shards when read."""

import hashlib
import json
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xxhash
from pydantic import Field, PrivateAttr, ValidationError

from corpus.config import NearDuplicates, Record, SourceSettings, describe
from corpus.document import Change, Reason
from corpus.durable import write_durably
from corpus.shards.block_cache import BlockCache
from corpus.shards.store import Store, StoreLost, open_store
from corpus.vocabulary.tokenizer import TextEncoder, special_token_ids, tokenizer_fingerprint

FILE_NAME = "manifest.json"
FORMAT_VERSION = 1

# What becomes of blocks whose bytes are not those that were written. A store that does not answer always stops.
OnFault = Literal["stop", "skip"]


class TokenizerRecord(Record):
    """`name` is what the builder was given; `fingerprint` is what identifies the tokenizer."""

    name: str
    fingerprint: str
    vocab_size: int
    dtype: Literal["uint16", "uint32"]
    cls_token_id: int
    sep_token_id: int
    pad_token_id: int
    mask_token_id: int | None
    unk_token_id: int


class InputRecord(Record):
    """One input stream as stored: `num_bytes` and XXH3-64 of its bytes before decompression.

    Of a file that is read in several segments, `hash` is the XXH3-64 of the segments' hexadecimal ones; a source of
    very many files has one record, whose hash is that of theirs and of their names.
    """

    name: str
    num_bytes: int
    hash: str


class Counts(Record):
    """documents_in = documents + sum(rejected), always. `characters` are those of the kept documents.

    `changed` counts the documents that each rule changed, of those that kept all rules, duplicates included.
    """

    documents_in: int
    documents: int
    characters: int
    tokens: int
    unk_tokens: int
    rejected: dict[Reason, int]
    changed: dict[Change, int] = Field(default_factory=dict)


class SourceRecord(SourceSettings, Counts):
    """A source: what it is, its inputs, what became of its documents, first examples of each rejection."""

    inputs: list[InputRecord]
    examples: dict[Reason, list[str]]


class TestRecord(SourceSettings):
    """A test set whose texts were kept out."""

    inputs: list[InputRecord]


class ShardRecord(Record):
    name: str
    num_bytes: int


class BlockTable(Record):
    """Columns of equal length, a block a row, in the order of the corpus. `source` indexes the sources."""

    source: list[int]
    shard: list[int]
    offset: list[int]
    length: list[int]
    tokens: list[int]
    documents: list[int]
    hash: list[str]

    def __len__(self) -> int:
        return len(self.tokens)


class Manifest(Record):
    format_version: int
    fingerprint: str
    tokenizer: TokenizerRecord
    sources: list[SourceRecord]
    near_duplicates: NearDuplicates | None = None
    decontamination: tuple[TestRecord, ...] = ()
    totals: Counts
    shards: list[ShardRecord]
    blocks: BlockTable
    has_word_planes: bool = False
    _store: Store = PrivateAttr(default_factory=lambda: open_store("."))

    @property
    def folder(self) -> Path:
        """Where the shards of a local corpus lie."""
        return Path(self._store.location)

    @property
    def store(self) -> Store:
        """Where the shards lie; known once loaded."""
        return self._store

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.tokenizer.dtype)


def build_tokenizer_record(name: str, tokenizer: Any) -> TokenizerRecord:
    """The record of a loaded tokenizer; `name` is its folder or hub id."""
    encoder = TextEncoder(tokenizer)
    state = {
        "name": name,
        "fingerprint": tokenizer_fingerprint(tokenizer),
        "vocab_size": encoder.num_tokens,
        "dtype": encoder.dtype.name,
    }
    ids = {f"{token}_token_id": index for token, index in special_token_ids(tokenizer).items()}
    return TokenizerRecord.model_validate(state | ids)


def corpus_fingerprint(tokenizer: TokenizerRecord, blocks: BlockTable) -> str:
    """SHA-256 of all that determines the rows, and of nothing else: no path, no date, no shard boundary."""
    state = [tokenizer.fingerprint, tokenizer.dtype, blocks.tokens, blocks.documents, blocks.hash]
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()


def total_counts(sources: list[SourceRecord]) -> Counts:
    fields = ("documents_in", "documents", "characters", "tokens", "unk_tokens")
    rejected = {reason: sum(source.rejected.get(reason, 0) for source in sources) for reason in Reason}
    sums = {field: sum(getattr(source, field) for source in sources) for field in fields}
    changed = {change: sum(source.changed.get(change, 0) for source in sources) for change in Change}
    return Counts(
        **sums,
        rejected={reason: count for reason, count in rejected.items() if count},
        changed={change: count for change, count in changed.items() if count},
    )


def save_manifest(manifest: Manifest, folder: Path) -> None:
    """Writes manifest.json in one step: a reader sees the whole of it or none."""
    state = manifest.model_dump(mode="json")
    data = _canonical(state | {"digest": _digest(state)})
    write_durably(folder / FILE_NAME, f"{data}\n".encode())


def _canonical(state: dict[str, Any]) -> str:
    return json.dumps(state, sort_keys=True, ensure_ascii=False)


def _digest(state: dict[str, Any]) -> str:
    """XXH3-64 of the manifest itself, so that a changed bit is found wherever it is."""
    return xxhash.xxh3_64_hexdigest(_canonical(state).encode())


def load_manifest(path: str | Path, cache: BlockCache | None = None, on_fault: OnFault = "stop") -> Manifest:
    """The manifest of a corpus (its folder, its URL, or the file itself there), checked whole.

    Raises ValueError when it is not JSON, of another version, contradicts itself, or when a shard is missing or has
    another size: found here, before anything is read, and with `on_fault` "skip" only warned of, unless no shard is
    sound. Raises StoreLost, a ValueError too, when it or a shard cannot be read or it is not there: a mistyped path,
    or a disk that is not mounted, which only who knows that it was there can tell. `cache` keeps blocks of a remote
    corpus.
    """
    is_file = str(path).rstrip("/").endswith(FILE_NAME)
    store = open_store(str(path).rstrip("/").removesuffix(FILE_NAME) or "." if is_file else path, cache)
    file = f"{store.location}/{FILE_NAME}"
    try:
        state = json.loads(store.read_file(FILE_NAME))
    except FileNotFoundError as error:
        is_relative = "://" not in file and not Path(file).is_absolute()
        seen_from = f" (relative paths are relative to the working folder {Path.cwd()})" if is_relative else ""
        advice = f"build the corpus with launch/build_corpus.py{seen_from}"
        raise StoreLost(f"{file}: there is no manifest; {advice}") from error
    except OSError as error:
        raise StoreLost(f"{file}: cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: is not a readable JSON file: {error}") from error
    version = state.get("format_version") if isinstance(state, dict) else None
    if version != FORMAT_VERSION:
        raise ValueError(f"{file}: format_version is {version}, but this code reads {FORMAT_VERSION}")
    digest = state.pop("digest", None)
    try:
        manifest = Manifest.model_validate_json(json.dumps(state))
    except ValidationError as error:
        raise ValueError(f"{file}: is not a manifest:\n{describe(error, Manifest)}") from error
    manifest._store = store
    _check_shards(manifest, on_fault)
    _check_contents(manifest, file)
    if digest not in (None, _digest(state)):  # None: written before there was one
        raise ValueError(f"{file}: the digest does not match the contents; the file was changed")
    return manifest


def _check_shards(manifest: Manifest, on_fault: OnFault) -> None:
    for shard in manifest.shards:
        if Path(shard.name).name != shard.name:
            raise ValueError(f"{manifest.store.location}/{shard.name}: a shard must lie beside its manifest")
    listed = manifest.store.listed_sizes()
    unsure = [shard for shard in manifest.shards if listed.get(shard.name) != shard.num_bytes]
    with ThreadPoolExecutor(manifest.store.num_readers) as pool:
        found = pool.map(lambda shard: _shard_problem(manifest.store, shard), unsure)
        problems = [problem for problem in found if problem]
    if problems and (on_fault == "stop" or len(problems) == len(manifest.shards)):
        raise ValueError(problems[0])
    for problem in problems:
        warnings.warn(f"{problem}; its damaged blocks are skipped", stacklevel=3)


def _shard_problem(store: Store, shard: ShardRecord) -> str | None:
    path = f"{store.location}/{shard.name}"
    try:
        size = store.size(shard.name)
    except OSError as error:
        raise StoreLost(f"{path}: {error}") from error
    if size is None:
        return f"{path}: the shard is missing"
    if size != shard.num_bytes:
        return f"{path}: the shard has {size} bytes, but the manifest says {shard.num_bytes}"
    return None


def _check_contents(manifest: Manifest, file: str) -> None:
    blocks = manifest.blocks
    columns = {name: len(getattr(blocks, name)) for name in BlockTable.model_fields}
    if len(set(columns.values())) != 1 or not len(blocks):
        raise ValueError(f"{file}: the columns of the block table must be of one length above zero: {columns}")
    if corpus_fingerprint(manifest.tokenizer, blocks) != manifest.fingerprint:
        raise ValueError(f"{file}: the fingerprint does not match the contents; the file was changed")
    special = [value for key, value in manifest.tokenizer if key.endswith("_token_id") and value is not None]
    if min(special) < 0 or max(special) >= min(manifest.tokenizer.vocab_size, np.iinfo(manifest.dtype).max + 1):
        raise ValueError(f"{file}: tokenizer: a special token's id lies outside the vocabulary, or {manifest.dtype}")
    for name, counts in [("totals", manifest.totals), *((s.name, s) for s in manifest.sources)]:
        if counts.documents_in != counts.documents + sum(counts.rejected.values()):
            raise ValueError(f"{file}: {name}: documents_in is not documents + the rejected ones")
    sums = (sum(blocks.documents), sum(blocks.tokens))
    if manifest.totals != total_counts(manifest.sources) or sums != (
        manifest.totals.documents,
        manifest.totals.tokens,
    ):
        raise ValueError(f"{file}: the totals are not the sums over sources and over blocks")
    for index, (shard, source) in enumerate(zip(blocks.shard, blocks.source, strict=True)):
        inside = 0 <= shard < len(manifest.shards) and 0 <= source < len(manifest.sources)
        if not inside or min(blocks.tokens[index], blocks.documents[index], blocks.length[index]) < 1:
            raise ValueError(f"{file}: block {index} names a shard or source that is not there, or is empty")
        if not 0 <= blocks.offset[index] <= manifest.shards[shard].num_bytes - blocks.length[index]:
            raise ValueError(f"{file}: block {index} lies outside {manifest.shards[shard].name}")
    of_sources = [[0, 0] for _ in manifest.sources]
    for source, documents, tokens in zip(blocks.source, blocks.documents, blocks.tokens, strict=True):
        of_sources[source][0] += documents
        of_sources[source][1] += tokens
    for record, of_blocks in zip(manifest.sources, of_sources, strict=True):
        if [record.documents, record.tokens] != of_blocks:
            raise ValueError(f"{file}: {record.name}: its documents and tokens are not the sums over its blocks")
