"""Files that are known to be of another form than the configured one, told by their first bytes."""

import codecs
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from corpus.reading.bad_input import BadInput, peek
from corpus.reading.charset import MIN_COMMON_SHARE, common_share
from corpus.reading.compression import is_compressed
from corpus.reading.tables import is_table

_HEAD_BYTES = 1 << 10
_LINE_BYTES = 1 << 16  # longer lines may have carriage returns inside
_READABLE = {".zip": b"PK\3\4", ".gz": b"\x1f\x8b\x08", ".xz": b"\xfd7zXZ\0", ".bz2": b"BZh", ".zst": b"(\xb5/\xfd"}
_READABLE |= {".parquet": b"PAR1"}
_MAGIC = _READABLE | {".7z": b"7z\xbc\xaf\x27\x1c", ".rar": b"Rar!\x1a\x07", ".lz4": b"\x04\x22M\x18"}
_MAGIC |= {".pdf": b"%PDF-", ".doc": b"\xd0\xcf\x11\xe0\xa1\xb1", ".sqlite": b"SQLite format 3\0"}


class _Form(NamedTuple):
    """A form, how it begins (after spaces), what to do, and the formats that read it."""

    start: re.Pattern[bytes]
    what: str
    advice: str
    formats: tuple[str, ...] = ()


def _starts(text: bytes) -> re.Pattern[bytes]:
    return re.compile(text, re.IGNORECASE)


_FORMS = (
    _Form(_starts(rb"version https://git-lfs"), "is a pointer to a file of Git LFS", "fetch the file: git lfs pull"),
    _Form(
        _starts(rb"WARC/\d"),
        "is a WARC file",
        "the text of web pages is in WET files (.warc.wet.gz), which --format wet reads",
        ("wet",),
    ),
    _Form(
        _starts(rb"(<\?xml[^>]*>\s*)?<mediawiki\b"),
        "is a dump of MediaWiki with its markup",
        "extract the text with WikiExtractor and give --format wikiextractor",
    ),
    _Form(
        _starts(rb"<doc\s+id="), "is WikiExtractor's default form", "give --format wikiextractor", ("wikiextractor",)
    ),
    _Form(
        _starts(rb"<(\?xml|doc>|rss\b|corpus\b|tmx\b)"),
        "is XML",
        "convert its text to JSON lines and give --format jsonl",
        ("files",),
    ),
    _Form(
        _starts(rb"<(!doctype html|html\b)"),
        "is a page of HTML, perhaps the error of a server",
        "fetch the file again; a page a file is --format files",
        ("files",),
    ),
    _Form(
        _starts(rb"-- MySQL dump|-- PostgreSQL database dump"),
        "is a dump of SQL",
        "export its text as CSV or JSON lines",
    ),
)


def check_form(chunks: Iterable[bytes], name: str, format: str, encoding: str) -> Iterator[bytes]:
    """Yield the chunks of a stream. Raise BadInput with what to do if its first bytes are of another form."""
    head, chunks = peek(chunks, lambda head: len(head) >= _HEAD_BYTES)
    if format != "files" and b"\n" not in head and b"\r" in head.rstrip(b"\r"):
        head, chunks = peek(chunks, lambda head: len(head) >= _LINE_BYTES or b"\n" in head)
        if b"\n" not in head:
            reason = "its lines end with carriage returns alone; convert it: tr '\\r' '\\n' < FILE"
            raise BadInput(name, reason)
    if problem := _problem(head, name, format, encoding):
        raise BadInput(name, problem)
    yield from chunks


def _unmarked_utf16(head: bytes) -> str | None:
    """The order of UTF-16 in which bytes that are no UTF-8 text are common Chinese characters."""
    if b"\0" not in head:
        try:
            codecs.getincrementaldecoder("utf-8")().decode(head)  # which may end within a character
            return None
        except UnicodeDecodeError:
            pass
    for order in ("utf-16-le", "utf-16-be"):
        text = head[: len(head) // 2 * 2].decode(order, "replace")
        if not text.isascii() and common_share(text) >= MIN_COMMON_SHARE:
            return order
    return None


def _problem(head: bytes, name: str, format: str, encoding: str) -> str | None:
    if head.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "is UTF-32, which is not read; convert it: iconv -f utf-32 -t utf-8 FILE"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) and not encoding.startswith("utf-16"):
        return f"is UTF-16, not {encoding}; give --encoding utf-16"
    if not encoding.startswith("utf-16") and (order := _unmarked_utf16(head)):
        return f"seems to be UTF-16 without a byte order mark, not {encoding}; give --encoding {order}"
    for kind, magic in _MAGIC.items():
        if head.startswith(magic) and not is_table(name):
            if kind not in _READABLE:
                return f"is a {kind} file, which cannot be read: take its text out first"
            inside = "inside another compression; unpack the outer one" if is_compressed(name) else None
            return f"is a {kind} file {inside or 'without that suffix; rename it'}"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for form in _FORMS:
        if form.start.match(text):
            return None if format in form.formats else f"{form.what}, not {format}; {form.advice}"
    if format in ("csv", "tsv") and text.startswith(b'{"'):
        return f"looks like JSON lines, not {format}; give --format jsonl"
    return None
