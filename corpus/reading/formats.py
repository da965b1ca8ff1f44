"""The input formats: bytes of lines in, documents or rejects out.

clue        a sentence or paragraph a line, a blank line between documents (CLUECorpusSmall, CLUECorpus2020)
lines       a document a line
files       a document a file, or a member of an archive (THUCNews)
jsonl       JSON lines; the named fields, joined by newlines, are the document. Rows of Parquet files and of
            Hugging Face datasets come as such lines too (see tables.py)
wiki2019zh, news2016zh, webtext2019zh, baike2018qa, translation2019zh
            JSON lines with fields of their own (see records.py)

A blank line where a document is expected holds nothing and is passed over. A document with a NUL is rejected:
text has none, but UTF-16 and damaged files do. Ids only name documents; two of one id are both read
(a build warns of them).
"""

import json
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from typing import Any, Literal

import orjson

from corpus.document import Change, Document, Reason, Reject, excerpt
from corpus.reading.charset import Encoding, decode
from corpus.reading.json_records import RecordSource, build_record_source, group_answers

Format = Literal[
    "wiki2019zh", "news2016zh", "webtext2019zh", "baike2018qa", "translation2019zh", "clue", "lines", "files", "jsonl"
]
MAX_DOCUMENT_BYTES = 64 << 20
_ADVICE = "the format clue has one between documents; if each line is a document, use --format lines"


def read_documents(
    format: Format,
    lines: Iterable[tuple[int, bytes]],
    name: str,
    text_fields: tuple[str, ...] = (),
    id_field: str | None = None,
    origin_field: str | None = None,
    encoding: Encoding = "utf-8",
) -> Iterator[Document | Reject]:
    """Documents of one part in the order of its lines. `name` is the part's, for places and messages."""
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
                f"{name}: a document of more than {MAX_DOCUMENT_BYTES >> 20} MiB; the format files takes a file for "
                "one document, lines a line for one"
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
                    f"{name}: no blank line ends the document that begins at line {first} within "
                    f"{MAX_DOCUMENT_BYTES >> 20} MiB; {_ADVICE}"
                )
        elif pending:
            # The end of the file (line 0) ends the last document, but not the only one: is that clue?
            if not number and not num_documents:
                raise ValueError(f"{name}: not one blank line ends a document in {len(pending)} lines; {_ADVICE}")
            yield _read_text(b"\n".join(pending), f"{name}:{first}", encoding)
            num_documents, num_lines = num_documents + 1, len(pending)
            pending, num_bytes = [], 0
    if num_documents == 1 and num_lines > 1:
        warnings.warn(f"{name}: {num_lines} lines without a blank one are one document; {_ADVICE}", stacklevel=2)


def _read_json(
    lines: Iterable[tuple[int, bytes]], name: str, source: RecordSource, encoding: Encoding
) -> Iterator[tuple[Document | Reject, dict]]:
    for number, line in lines:
        if line.strip():
            yield _read_record(line, f"{name}:{number}", source, encoding)


def _load_leniently(text: str) -> Any:
    """What Python's json writes and no standard allows: NaN, and halves of a character outside the basic plane, which
    are left out. ValueError or RecursionError where it is no JSON."""
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
