"""The input formats: lines of bytes to documents or rejects.

clue        a sentence or paragraph a line, a blank line between documents (CLUECorpusSmall, CLUECorpus2020)
lines       a document a line
files       a document a file, or a member of an archive (THUCNews)
jsonl       JSON lines; the named fields, joined by newlines, are the document. Rows of Parquet files and of
            Hugging Face datasets are read as such lines too (see tables.py)
wiki2019zh, news2016zh, webtext2019zh, baike2018qa, translation2019zh
            JSON lines with known fields (see json_records.py)

Blank lines between documents are skipped. A document with a NUL is rejected: text has none, but UTF-16 and damaged
files do. Ids only name documents in messages: documents of the same id are all read, and a build warns of them.
"""

import json
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from typing import Annotated, Any

import orjson
from pydantic import AfterValidator, Field

from corpus.document import Change, Document, Reason, Reject, excerpt
from corpus.reading.charset import Encoding, decode
from corpus.reading.json_records import SOURCES, RecordSource, build_record_source, group_answers

FORMATS = (*SOURCES, "clue", "lines", "files", "jsonl")


def _check_format(name: str) -> str:
    if name not in FORMATS:
        raise ValueError(f"unknown format {name!r}; there are {', '.join(FORMATS)}")
    return name


Format = Annotated[str, AfterValidator(_check_format), Field(json_schema_extra={"enum": list(FORMATS)})]
MAX_DOCUMENT_BYTES = 64 << 20
_ADVICE = "the format clue has a blank line between documents; if each line is a document, use --format lines"


def read_documents(
    format: Format,
    lines: Iterable[tuple[int, bytes]],
    name: str,
    text_fields: tuple[str, ...] = (),
    id_field: str | None = None,
    origin_field: str | None = None,
    encoding: Encoding = "utf-8",
) -> Iterator[Document | Reject]:
    """Yield the documents and rejects of one stream, in order.

    Args:
        lines: numbered lines of bytes without their newlines (`split_lines`).
        name: the stream's name, for places and messages.
        text_fields, id_field, origin_field: of the records, for the format jsonl.

    Raises ValueError for a document above 64 MiB, and for the format clue if the stream has no blank lines.
    """
    if format == "clue":
        return _read_clue(lines, name, encoding)
    if format == "lines":
        return (_read_text(line, f"{name}:{number}", encoding) for number, line in lines if line.strip())
    if format == "files":
        return _read_file(lines, name, encoding)
    source = build_record_source(format, text_fields, id_field, origin_field)
    rows = _read_json(lines, name, source, encoding)
    return group_answers(rows) if source.is_grouped else (item for item, _ in rows)


def _read_file(lines: Iterable[tuple[int, bytes]], name: str, encoding: Encoding) -> Iterator[Document | Reject]:
    kept: list[bytes] = []
    num_bytes = 0
    for _, line in lines:
        kept.append(line)
        num_bytes += len(line) + 1
        if num_bytes > MAX_DOCUMENT_BYTES:
            raise ValueError(
                f"{name}: a document of more than {MAX_DOCUMENT_BYTES >> 20} MiB; in the format files each file is a "
                "document, in lines each line"
            )
    if text := b"\n".join(kept).strip():
        yield _read_text(text, name, encoding)


def _read_text(data: bytes, place: str, encoding: Encoding) -> Document | Reject:
    decoded = decode(data, encoding)
    if isinstance(decoded, Reason):
        return Reject(decoded, place, excerpt(data[:1024].decode(errors="replace")))
    text, was_gb18030 = decoded
    return _checked(Document(text, place, changes=(Change.GB18030_DECODED,) if was_gb18030 else ()))


def _checked(document: Document) -> Document | Reject:
    return document.reject(Reason.NUL_BYTE) if "\0" in document.text else document


def _read_clue(lines: Iterable[tuple[int, bytes]], name: str, encoding: Encoding) -> Iterator[Document | Reject]:
    pending: list[bytes] = []
    num_bytes = first = num_documents = 0
    for number, line in chain(lines, [(0, b"")]):
        if line.strip():
            first = first if pending else number
            pending.append(line)
            num_bytes += len(line) + 1
            if num_bytes > MAX_DOCUMENT_BYTES:
                raise ValueError(
                    f"{name}: the document that begins at line {first} has no blank line within "
                    f"{MAX_DOCUMENT_BYTES >> 20} MiB; {_ADVICE}"
                )
        elif pending:
            # The end of the file (line 0) ends the last document. If it is the only one, this may not be clue at all.
            if not number and not num_documents:
                raise ValueError(f"{name}: no blank line in {len(pending)} lines; {_ADVICE}")
            yield _read_text(b"\n".join(pending), f"{name}:{first}", encoding)
            num_documents, num_lines = num_documents + 1, len(pending)
            pending, num_bytes = [], 0
    if num_documents == 1 and num_lines > 1:
        warnings.warn(f"{name}: {num_lines} lines without a blank line are one document; {_ADVICE}", stacklevel=2)


def _read_json(
    lines: Iterable[tuple[int, bytes]], name: str, source: RecordSource, encoding: Encoding
) -> Iterator[tuple[Document | Reject, dict]]:
    for number, line in lines:
        if line.strip():
            yield _read_record(line, f"{name}:{number}", source, encoding)


def _load_leniently(text: str) -> Any:
    """Decode JSON with what Python's json writes against the standard: NaN, and lone surrogates, which are dropped.

    Raises ValueError or RecursionError for other text.
    """
    record = json.loads(text)
    return json.loads(json.dumps(record, ensure_ascii=False).encode(errors="ignore"))


def _read_record(line: bytes, place: str, source: RecordSource, encoding: Encoding) -> tuple[Document | Reject, dict]:
    changes: tuple[Change, ...] = ()
    data: Any = line
    if encoding != "utf-8":
        whole = _read_text(line, place, encoding)
        if isinstance(whole, Reject):
            return whole, {}
        data, changes = whole.text, whole.changes
    try:
        record = orjson.loads(data)
    except orjson.JSONDecodeError:
        broken = _read_text(line, place, encoding)
        if isinstance(broken, Reject):
            return broken, {}
        try:
            record = _load_leniently(broken.text)
        except (ValueError, RecursionError):
            return broken.reject(Reason.BROKEN_JSON), {}
    item = source.read(record, place)
    if isinstance(item, Reject):
        return item, {}
    return _checked(replace(item, changes=changes) if changes else item), record
