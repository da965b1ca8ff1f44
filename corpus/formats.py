"""The four input formats: bytes of lines in, documents or rejects out.

wiki2019zh  JSON lines {"id", "url", "title", "text"}; a first line that repeats the title is dropped
clue        a sentence or paragraph a line, a blank line between documents (CLUECorpusSmall)
lines       a document a line
jsonl       JSON lines; the named fields, joined by newlines, are the document

A blank line where a document is expected holds nothing and is passed over.
"""

import warnings
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Literal

import orjson

from corpus.document import Document, Reason, Reject

Format = Literal["wiki2019zh", "clue", "lines", "jsonl"]
MAX_DOCUMENT_BYTES = 64 << 20
_ADVICE = "the format clue has one between documents; if each line is a document, use --format lines"


def read_documents(
    format: Format,
    lines: Iterable[tuple[int, bytes]],
    name: str,
    text_fields: tuple[str, ...] = (),
    id_field: str | None = None,
) -> Iterator[Document | Reject]:
    """Documents of one part in the order of its lines. `name` is the part's, for places and messages."""
    if format == "clue":
        return _read_clue(lines, name)
    if format == "lines":
        return (_read_text(line, f"{name}:{number}") for number, line in lines if line.strip())
    if format == "wiki2019zh":
        items = _read_json(lines, name, ("text",), "id")
        return (_without_title(item, record) for item, record in items)
    return (item for item, _ in _read_json(lines, name, text_fields, id_field))


def _read_text(data: bytes, place: str) -> Document | Reject:
    try:
        return Document(data.decode(), place)
    except UnicodeDecodeError:
        return Reject(Reason.INVALID_UTF8, place)


def _read_clue(lines: Iterable[tuple[int, bytes]], name: str) -> Iterator[Document | Reject]:
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
            yield _read_text(b"\n".join(pending), f"{name}:{first}")
            num_documents, num_lines = num_documents + 1, len(pending)
            pending, num_bytes = [], 0
    if num_documents == 1 and num_lines > 1:
        warnings.warn(f"{name}: {num_lines} lines without a blank one are one document; {_ADVICE}", stacklevel=2)


def _read_json(
    lines: Iterable[tuple[int, bytes]], name: str, text_fields: tuple[str, ...], id_field: str | None
) -> Iterator[tuple[Document | Reject, dict]]:
    for number, line in lines:
        if not line.strip():
            continue
        place = f"{name}:{number}"
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError:
            broken = _read_text(line, place)
            yield (broken if isinstance(broken, Reject) else Reject(Reason.BROKEN_JSON, place)), {}
            continue
        if isinstance(record, dict):
            yield _read_record(record, place, text_fields, id_field), record
        else:
            yield Reject(Reason.NOT_AN_OBJECT, place), {}


def _read_record(record: dict, place: str, text_fields: tuple[str, ...], id_field: str | None) -> Document | Reject:
    identity = str(record.get(id_field, "")) if id_field else ""
    texts = [record.get(field) for field in text_fields]
    if all(isinstance(text, str) for text in texts):
        return Document("\n".join(texts), place, identity)  # type: ignore[arg-type]
    missing = any(field not in record for field in text_fields)
    reason = Reason.FIELD_MISSING if missing else Reason.FIELD_NOT_A_STRING
    return Reject(reason, Document("", place, identity).label)


def _without_title(item: Document | Reject, record: dict) -> Document | Reject:
    if isinstance(item, Reject):
        return item
    first, _, body = item.text.lstrip().partition("\n")
    title = record.get("title")
    if isinstance(title, str) and title.strip() and first.strip() == title.strip():
        return Document(body, item.place, item.id)
    return item
