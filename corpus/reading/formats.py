"""The input formats: streams of bytes to lines, and lines to documents or rejects.

clue        a sentence or paragraph a line, a blank line between documents (CLUECorpusSmall, CLUECorpus2020)
lines       a document a line
files       a document a file, or a member of an archive (THUCNews)
jsonl       JSON lines; the named fields, joined by newlines, are the document. Rows of Parquet files and of
            Hugging Face datasets are read as such lines too (see tables.py)
wiki2019zh, news2016zh, webtext2019zh, baike2018qa, translation2019zh
            JSON lines with known fields (see json_records.py)
csv, tsv    rows with a first line that names the columns; the named ones are joined as fields are
wikiextractor
            <doc id= url= title=> ... </doc>, the default form of WikiExtractor
wet         the text of Common Crawl's pages

Records of JSON may also be the elements of an array, or extend over several lines (see json_values.py).

Blank lines between documents are skipped. A document with a NUL is rejected: text has none, but UTF-16 and damaged
files do. Ids only name documents in messages: documents of the same id are all read, and a build warns of them.
"""

import json
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from typing import Annotated, Any

import orjson
from pydantic import AfterValidator, Field

from corpus.document import Change, Document, Reason, Reject, excerpt, hints
from corpus.reading.bad_input import BadInput
from corpus.reading.charset import Encoding, decode, utf16_to_utf8
from corpus.reading.columns import SEPARATORS, read_rows
from corpus.reading.dumps import parse_wikiextractor, read_wet, read_wikiextractor
from corpus.reading.forms import check_form
from corpus.reading.json_records import SOURCES, RecordSource, build_record_source, group_answers
from corpus.reading.json_values import split_records
from corpus.reading.lines import split_lines

FORMATS = (*SOURCES, "clue", "lines", "files", "jsonl", *SEPARATORS, "wikiextractor", "wet")
FIELD_FORMATS = ("jsonl", *SEPARATORS)  # those that take text_fields
JSON_FORMATS = (*SOURCES, "jsonl")


def _check_format(name: str) -> str:
    if name not in FORMATS:
        raise ValueError(f"unknown format {name!r}; there are {', '.join(FORMATS)}")
    return name


Format = Annotated[str, AfterValidator(_check_format), Field(json_schema_extra={"enum": list(FORMATS)})]
MAX_DOCUMENT_BYTES = 64 << 20
_NEWLINE = re.compile(rb"\n")
_BOUNDARIES = {
    "clue": re.compile(rb"\S[^\S\n]*\n\s*\n"),
    "wikiextractor": re.compile(rb"</doc>[^\S\n]*\n"),
    "lines": _NEWLINE,
} | dict.fromkeys(JSON_FORMATS, _NEWLINE)
_UNIT_SEPARATOR = "\x1f"
_ADVICE = "the format clue has a blank line between documents; if each line is a document, use --format lines"


def boundary(format: Format, encoding: Encoding) -> re.Pattern[bytes] | None:
    """Return what documents end with, where a file may be split; None for a format whose files are read as a whole."""
    return None if encoding.startswith("utf-16") else _BOUNDARIES.get(format)


def split_stream(
    chunks: Iterable[bytes],
    name: str,
    format: Format,
    encoding: Encoding,
    *,
    is_first: bool = True,
    is_last: bool = True,
) -> Iterator[tuple[int, bytes]]:
    """Return the numbered lines of a stream, or its records of JSON that are not a line each, for `read_documents`.

    Args:
        is_first, is_last: whether the chunks begin and end where the file does.

    Reading them raises BadInput for a stream that is of another form or encoding than the format's.
    """
    if is_first:
        chunks = check_form(chunks, name, format, encoding)
    if encoding.startswith("utf-16"):
        chunks = utf16_to_utf8(chunks, encoding, name)
    if format in JSON_FORMATS and is_first and is_last:
        return split_records(chunks, name, encoding)
    return split_lines(chunks, name, keep_marks=format == "wet")


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
        lines: numbered lines of bytes without their newlines (`split_stream`).
        name: the stream's name, for places and messages.
        text_fields, id_field, origin_field: of the records, for the formats jsonl, csv and tsv.

    Raises BadInput for a document above 64 MiB, for columns that are not there, and for the format clue if the stream
    has no blank lines.
    """
    if format == "clue":
        return _read_clue(lines, name, encoding)
    if format == "lines":
        return (_read_text(line, f"{name}:{number}", encoding) for number, line in lines if line.strip())
    if format == "files":
        return _read_file(lines, name, encoding)
    if format == "wet":
        return (_read_page(url, text, f"{name}:{number}", encoding) for number, url, text in read_wet(lines, name))
    if format == "wikiextractor":
        return (_read_article(text, f"{name}:{number}", encoding) for number, text in read_wikiextractor(lines, name))
    source = build_record_source(format, text_fields, id_field, origin_field)
    if format in SEPARATORS:
        wanted = [field for field in (*text_fields, id_field, origin_field) if field]
        return _read_columns(read_rows(lines, name, format), name, source, wanted, encoding)
    rows = _read_json(lines, name, source, encoding, {field.partition(".")[0] for field in text_fields})
    return group_answers(rows) if source.is_grouped else (item for item, _ in rows)


def _read_file(lines: Iterable[tuple[int, bytes]], name: str, encoding: Encoding) -> Iterator[Document | Reject]:
    kept: list[bytes] = []
    num_bytes = 0
    for _, line in lines:
        kept.append(line)
        num_bytes += len(line) + 1
        if num_bytes > MAX_DOCUMENT_BYTES:
            limit = f"{MAX_DOCUMENT_BYTES >> 20} MiB"
            advice = "in the format files each file is a document, in lines each line"
            raise BadInput(name, f"a document of more than {limit}; {advice}")
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
                limit = f"{MAX_DOCUMENT_BYTES >> 20} MiB"
                reason = f"the document that begins at line {first} has no blank line within {limit}; {_ADVICE}"
                raise BadInput(name, reason)
        elif pending:
            # The end of the file (line 0) ends the last document. If it is the only one, this may not be clue at all.
            if not number and not num_documents:
                raise BadInput(name, f"no blank line in {len(pending)} lines; {_ADVICE}")
            yield _read_text(b"\n".join(pending), f"{name}:{first}", encoding)
            num_documents, num_lines = num_documents + 1, len(pending)
            pending, num_bytes = [], 0
    if num_documents == 1 and num_lines > 1:
        warnings.warn(f"{name}: {num_lines} lines without a blank line are one document; {_ADVICE}", stacklevel=2)


def _read_page(url: str, text: bytes, place: str, encoding: Encoding) -> Document | Reject:
    item = _read_text(text, place, encoding)
    return replace(item, id=url, origin=url) if isinstance(item, Document) else item


def _read_article(text: bytes, place: str, encoding: Encoding) -> Document | Reject:
    """An article of WikiExtractor; its title is left out, as in the format wiki2019zh, which that program wrote."""
    item = _read_text(text, place, encoding)
    if isinstance(item, Reject):
        return item
    article = SOURCES["wiki2019zh"].read(parse_wikiextractor(item.text), place)
    return replace(article, changes=item.changes) if isinstance(article, Document) else article


def _read_columns(
    rows: Iterable[tuple[int, list[bytes]]], name: str, source: RecordSource, wanted: list[str], encoding: Encoding
) -> Iterator[Document | Reject]:
    columns: list[str] | None = None
    for number, row in rows:
        place = f"{name}:{number}"
        whole = _read_text(_UNIT_SEPARATOR.encode().join(row), place, encoding)
        if isinstance(whole, Reject):
            if columns is None:
                advice = hints([whole.reason]) or f"; {whole.reason}"
                raise BadInput(name, f"its first line, which names the columns, cannot be read{advice}")
            yield whole
            continue
        fields = whole.text.split(_UNIT_SEPARATOR)
        if columns is None:
            columns = _check_columns(fields, wanted, name)
        elif len(fields) != len(columns):
            yield whole.reject(Reason.BROKEN_ROW)
        else:
            item = source.read(dict(zip(columns, fields, strict=True)), place)
            yield replace(item, changes=whole.changes) if isinstance(item, Document) else item


def _check_columns(columns: list[str], wanted: list[str], name: str) -> list[str]:
    columns = [column.strip() for column in columns]
    if missing := [field for field in wanted if field not in columns]:
        found = excerpt(", ".join(columns))
        raise BadInput(name, f"has no column {', '.join(missing)}; the columns of its first line are {found}")
    return columns


def _read_json(
    lines: Iterable[tuple[int, bytes]], name: str, source: RecordSource, encoding: Encoding, fields: set[str]
) -> Iterator[tuple[Document | Reject, dict]]:
    held: tuple[Reject, str] | None = None  # a first record without text, which may hold all others
    is_first = True
    for number, line in lines:
        if not line.strip():
            continue
        item, record = _read_record(line, f"{name}:{number}", source, encoding)
        if is_first:
            is_first = False
            if isinstance(item, Reject) and (within := _records_within(record, fields)):
                held = item, within
                continue
        if held:
            yield held[0], {}
            held = None
        yield item, record
    if held:
        advice = f"jq -c '{held[1]}' FILE makes a line of each"
        raise BadInput(name, f"is one object that has no text itself, but holds the records; {advice}")


def _records_within(record: Any, fields: set[str]) -> str:
    """What jq takes the records from that an object without these fields holds: `.data[]`; empty if it holds none."""
    values = record if isinstance(record, dict) and not fields & record.keys() else {}
    for key, value in values.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return f".{key}[]"
    return ".[]" if values and all(isinstance(value, dict) for value in values.values()) else ""


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
        return item, record
    return _checked(replace(item, changes=changes) if changes else item), record
