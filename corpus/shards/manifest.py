"""The manifest of a corpus: its identity, statistics and block table; validated when read."""

import hashlib
import json
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xxhash
from pydantic import Field, PrivateAttr, ValidationError

from corpus.config import NearDuplicates, SourceSettings, StrictModel
from corpus.config_file import explain
from corpus.document import Change, Reason
from corpus.durable import write_durably
from corpus.shards.block_cache import BlockCache
from corpus.shards.store import Store, StoreLost, open_store
from corpus.vocabulary.pieces import ids_without_piece
from corpus.vocabulary.special_tokens import special_token_ids
from corpus.vocabulary.tokenizer import TextEncoder, tokenizer_fingerprint

FILE_NAME = "manifest.json"
FORMAT_VERSION = 1

# For damaged blocks: stop with an error, or skip them with a warning. A store that does not answer always stops.
OnFault = Literal["stop", "skip"]


class TokenizerRecord(StrictModel):
    """The tokenizer of a corpus: the folder or hub id it was built with, and the fingerprint that identifies it."""

    name: str
    fingerprint: str
    vocab_size: int  # the highest id + 1
    ids_without_piece: list[int] = Field(default_factory=list)
    dtype: Literal["uint16", "uint32"]
    cls_token_id: int | None  # what the tokenizer puts before a text
    sep_token_id: int | None  # and after it
    pad_token_id: int
    mask_token_id: int | None
    unk_token_id: int | None


class InputRecord(StrictModel):
    """One input stream as stored: the size and the XXH3-64 of its bytes, before decompression.

    A file read in several segments has the hash of their hashes; a source of over 10,000 files has one record in all.
    """

    name: str
    num_bytes: int
    hash: str


class Counts(StrictModel):
    """Counts of documents, characters and tokens. Always: documents_in = documents + sum(rejected).

    `characters`, `tokens` and `unk_tokens` are those of the kept documents. `changed` counts the documents that each
    rule changed, of those that no rule dropped, duplicates included.
    """

    documents_in: int
    documents: int
    characters: int
    tokens: int
    unk_tokens: int
    rejected: dict[Reason, int]
    changed: dict[Change, int] = Field(default_factory=dict)


class SourceRecord(SourceSettings, Counts):
    """A source: its settings, its counts, its inputs, and the first examples of each reason for rejection.

    `bad_inputs` says what is wrong with each input at fault that was skipped, each counted as one rejected document.
    """

    inputs: list[InputRecord]
    examples: dict[Reason, list[str]]
    bad_inputs: list[str] = Field(default_factory=list)


class TestRecord(SourceSettings):
    """A test set for decontamination: documents that contain one of its texts were dropped."""

    inputs: list[InputRecord]


class ShardRecord(StrictModel):
    """A shard: its file name, in the folder of the manifest, and its size."""

    name: str
    num_bytes: int


class BlockTable(StrictModel):
    """The blocks of a corpus in order, as columns of equal length. `source` and `shard` are indices."""

    source: list[int]
    shard: list[int]
    offset: list[int]  # in the shard, bytes
    length: list[int]  # bytes
    tokens: list[int]
    documents: list[int]
    hash: list[str]  # XXH3-64

    def __len__(self) -> int:
        return len(self.tokens)


class Manifest(StrictModel):
    """A corpus: what it was built from, what it holds, and where its blocks are. Loaded by `load_manifest`.

    `fingerprint` is a SHA-256 of all that determines the rows: equal corpora have equal fingerprints.
    """

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
        """The folder of a local corpus."""
        return Path(self._store.location)

    @property
    def store(self) -> Store:
        """The folder or URL that holds the shards; set by `load_manifest`."""
        return self._store

    @property
    def dtype(self) -> np.dtype:
        """The integer type of ids in blocks: uint16 or uint32."""
        return np.dtype(self.tokenizer.dtype)


def build_tokenizer_record(name: str, tokenizer: Any) -> TokenizerRecord:
    """Build the record of a loaded tokenizer; `name` is its folder or hub id."""
    encoder = TextEncoder(tokenizer)
    state = {
        "name": name,
        "fingerprint": tokenizer_fingerprint(tokenizer),
        "vocab_size": encoder.num_ids,
        "ids_without_piece": ids_without_piece(tokenizer),
        "dtype": encoder.dtype.name,
    }
    ids = {f"{token}_token_id": index for token, index in special_token_ids(tokenizer).items()}
    return TokenizerRecord.model_validate(state | ids)


def corpus_fingerprint(tokenizer: TokenizerRecord, blocks: BlockTable) -> str:
    """Return a SHA-256 of all that determines the rows, and of nothing else: no paths, dates or shard boundaries."""
    state = [tokenizer.fingerprint, tokenizer.dtype, blocks.tokens, blocks.documents, blocks.hash]
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()


def total_counts(sources: list[SourceRecord]) -> Counts:
    """Return the sums of the counts of all sources."""
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
    """Write manifest.json into a folder, atomically."""
    state = manifest.model_dump(mode="json")
    data = _canonical(state | {"digest": _digest(state)})
    write_durably(folder / FILE_NAME, f"{data}\n".encode())


def _canonical(state: dict[str, Any]) -> str:
    return json.dumps(state, sort_keys=True, ensure_ascii=False)


def _digest(state: dict[str, Any]) -> str:
    """XXH3-64 of the manifest itself, so that any changed bit is found."""
    return xxhash.xxh3_64_hexdigest(_canonical(state).encode())


def load_manifest(path: str | Path, cache: BlockCache | None = None, on_fault: OnFault = "stop") -> Manifest:
    """Load and validate the manifest of a corpus, and check the sizes of its shards.

    Args:
        path: the corpus's folder or URL, or its manifest.json.
        cache: keeps blocks of a remote corpus on disk.
        on_fault: "skip" warns of missing shards and shards of another size, unless none is left; "stop" raises.

    Raises ValueError if the manifest is not JSON, of another version or inconsistent, or for faulty shards. Raises
    StoreLost (a ValueError) if the manifest does not exist, or it or a shard cannot be read: the path may be wrong, or
    the disk not mounted.
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
        raise ValueError(f"{file}: not JSON: {error}") from error
    version = state.get("format_version") if isinstance(state, dict) else None
    if version != FORMAT_VERSION:
        raise ValueError(f"{file}: format_version is {version}, but this code reads {FORMAT_VERSION}")
    digest = state.pop("digest", None)
    try:
        manifest = Manifest.model_validate_json(json.dumps(state))
    except ValidationError as error:
        raise ValueError("\n".join([f"{file}: is not a manifest:", *explain(error, state, Manifest)])) from error
    manifest._store = store
    _check_shards(manifest, on_fault)
    _check_contents(manifest, file)
    if digest not in (None, _digest(state)):  # None: written by a version without digests
        raise ValueError(f"{file}: the digest does not match the contents; the file was changed")
    return manifest


def _check_shards(manifest: Manifest, on_fault: OnFault) -> None:
    for shard in manifest.shards:
        if Path(shard.name).name != shard.name:
            raise ValueError(f"{manifest.store.location}/{shard.name}: a shard must be in the folder of its manifest")
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
        raise ValueError(f"{file}: the columns of the block table must have the same length above zero: {columns}")
    if corpus_fingerprint(manifest.tokenizer, blocks) != manifest.fingerprint:
        raise ValueError(f"{file}: the fingerprint does not match the contents; the file was changed")
    special = [value for key, value in manifest.tokenizer if key.endswith("_token_id") and value is not None]
    special += manifest.tokenizer.ids_without_piece
    if min(special) < 0 or max(special) >= min(manifest.tokenizer.vocab_size, np.iinfo(manifest.dtype).max + 1):
        raise ValueError(
            f"{file}: tokenizer: the id of a special token, or one without a piece, is outside the vocabulary, or does "
            f"not fit {manifest.dtype}"
        )
    for name, counts in [("totals", manifest.totals), *((s.name, s) for s in manifest.sources)]:
        if counts.documents_in != counts.documents + sum(counts.rejected.values()):
            raise ValueError(f"{file}: {name}: documents_in is not the sum of documents and rejected")
    sums = (sum(blocks.documents), sum(blocks.tokens))
    if manifest.totals != total_counts(manifest.sources) or sums != (
        manifest.totals.documents,
        manifest.totals.tokens,
    ):
        raise ValueError(f"{file}: the totals are not the sums over sources and over blocks")
    for index, (shard, source) in enumerate(zip(blocks.shard, blocks.source, strict=True)):
        inside = 0 <= shard < len(manifest.shards) and 0 <= source < len(manifest.sources)
        if not inside or min(blocks.tokens[index], blocks.documents[index], blocks.length[index]) < 1:
            raise ValueError(f"{file}: block {index} refers to a shard or source that does not exist, or is empty")
        if not 0 <= blocks.offset[index] <= manifest.shards[shard].num_bytes - blocks.length[index]:
            raise ValueError(f"{file}: block {index} is outside {manifest.shards[shard].name}")
    of_sources = [[0, 0] for _ in manifest.sources]
    for source, documents, tokens in zip(blocks.source, blocks.documents, blocks.tokens, strict=True):
        of_sources[source][0] += documents
        of_sources[source][1] += tokens
    for record, of_blocks in zip(manifest.sources, of_sources, strict=True):
        if [record.documents, record.tokens] != of_blocks:
            raise ValueError(f"{file}: {record.name}: its documents and tokens are not the sums over its blocks")
