"""Documents of dumps: WikiExtractor's default form, and WET, the text of Common Crawl's pages.

WikiExtractor (github.com/attardi/wikiextractor) writes `<doc id="" url="" title="">`, the title, a blank line, the
text and `</doc>`. WET (commoncrawl.org/get-started) has a WARC record a page, whose Content-Length counts bytes.
"""

import html
import re
from collections.abc import Iterable, Iterator

from corpus.reading.bad_input import BadInput

MAX_DOCUMENT_BYTES = 64 << 20
_ATTRIBUTE = re.compile(r'(\w+)="(.*?)"(?=\s+\w+="|\s*>\s*$)')
_OUTSIDE = (
    "lies outside <doc ...> and </doc>; the format wikiextractor is that program's default form: of its --json form "
    "give --format wiki2019zh"
)


def read_wikiextractor(lines: Iterable[tuple[int, bytes]], name: str) -> Iterator[tuple[int, bytes]]:
    """Yield each document from its `<doc ...>` line on, without `</doc>`, with the number of its first line.

    Raises BadInput for text outside documents and for a document without an end.
    """
    pending: list[bytes] = []
    first = num_bytes = 0
    for number, line in lines:
        text = line.strip()
        if pending and text == b"</doc>":
            yield first, b"\n".join(pending)
            pending = []
        elif pending:
            pending.append(line)
            num_bytes += len(line) + 1
            if num_bytes > MAX_DOCUMENT_BYTES:
                raise BadInput(
                    name, f"the document of line {first} has no </doc> within {MAX_DOCUMENT_BYTES >> 20} MiB"
                )
        elif text.startswith(b"<doc ") and text.endswith(b">"):
            pending, first, num_bytes = [line], number, len(line)
        elif text:
            raise BadInput(name, f"line {number} {_OUTSIDE}")
    if pending:
        raise BadInput(name, f"the document of line {first} has no </doc>; the file is probably cut short")


def parse_wikiextractor(text: str) -> dict[str, str]:
    """Return a document's attributes (id, url, title) and its `text`."""
    head, _, body = text.partition("\n")
    return {key: html.unescape(value) for key, value in _ATTRIBUTE.findall(head)} | {"text": body}


def read_wet(lines: Iterable[tuple[int, bytes]], name: str) -> Iterator[tuple[int, str, bytes]]:
    """Yield the text of each page with the number of its record's first line and its address.

    Args:
        lines: with their byte order marks, which lengths count.

    Raises BadInput for other records than WET's, and for a record without an end.
    """
    remaining = iter(lines)
    for number, line in remaining:
        if not line.strip():
            continue
        if not line.startswith(b"WARC/"):
            raise BadInput(name, f"line {number} is not the beginning of a WET record")
        headers = _headers(remaining)
        kind, length = headers.get("warc-type"), headers.get("content-length", "")
        if kind not in ("conversion", "warcinfo"):
            raise BadInput(name, f"holds records of the type {kind}, not text: WET files (.warc.wet.gz) hold the text")
        if not length.isascii() or not length.isdigit() or int(length) > MAX_DOCUMENT_BYTES:
            raise BadInput(name, f"the record of line {number} has the Content-Length {length!r}")
        body = _body(remaining, int(length))
        if body is None:
            raise BadInput(name, f"the record of line {number} has no end; the file is probably cut short")
        if kind == "conversion":
            yield number, headers.get("warc-target-uri", ""), body


def _headers(lines: Iterator[tuple[int, bytes]]) -> dict[str, str]:
    headers = {}
    for _, line in lines:
        if not line.strip():
            break
        key, _, value = line.decode(errors="replace").partition(":")
        headers[key.strip().lower()] = value.strip()
    return headers


def _body(lines: Iterator[tuple[int, bytes]], num_bytes: int) -> bytes | None:
    """The lines of a record's body; None if the stream ends before it does."""
    body: list[bytes] = []
    while num_bytes > 0:
        _, line = next(lines, (0, None))
        if line is None:
            return None
        body.append(line)
        num_bytes -= len(line) + 1
    # The last line as a whole: lengths of some programs are off by one.
    return b"\n".join(body).rstrip(b"\r\n")
