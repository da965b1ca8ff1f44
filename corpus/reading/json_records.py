"""JSON records to documents. A new format of JSON lines is one small function and one entry of SOURCES.

The function takes a record and returns its text; `_text` rejects a record whose field is missing or no string. The
formats here are the collections of github.com/brightmart/nlp_chinese_corpus.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from corpus.document import Document, Reason, Reject, excerpt

Record = dict[str, Any]
_MAX_GROUP_CHARACTERS = 1 << 16


class FieldError(Exception):
    """A record has no text: `reason` says why, and `detail` (may be empty) what the record has instead."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class RecordSource:
    """How the records of a format become documents.

    Attributes:
        text: returns the text of a record, or raises FieldError.
        id: the field with the document's id, if any.
        origin: the field with its site or publisher, if any.
        is_grouped: whether consecutive records of the same id make one document (`group_answers`).
    """

    text: Callable[[Record], str]
    id: str | None = None
    origin: str | None = None
    is_grouped: bool = False

    def read(self, record: Any, place: str) -> Document | Reject:
        """Return the document of a decoded record, or a reject; `place` is `input:line`."""
        if not isinstance(record, dict):
            return Reject(Reason.NOT_AN_OBJECT, place)
        identity = record.get(self.id) if self.id else None
        identity = "" if identity is None else str(identity)
        origin = record.get(self.origin) if self.origin else ""
        try:
            return Document(self.text(record), place, identity, origin if isinstance(origin, str) else "")
        except FieldError as error:
            return Reject(error.reason, Document("", place, identity).label + error.detail)


def _text(record: Record, field: str) -> str:
    text = record.get(field)
    if isinstance(text, str):
        return text
    outer, dot, inner = field.partition(".")
    if field not in record and dot and isinstance(members := record.get(outer), (dict, list)):
        members = members if isinstance(members, list) else [members]
        return "\n".join(_text(member if isinstance(member, dict) else {}, inner) for member in members)
    if field in record:
        raise FieldError(Reason.FIELD_NOT_A_STRING)
    raise FieldError(Reason.FIELD_MISSING, f" (no {field}; it has {excerpt(', '.join(record)) or 'no fields'})")


def _lines(*texts: str) -> str:
    """Join texts by newlines, without those that are empty or that a later text begins with."""
    texts = tuple(filter(None, (text.strip() for text in texts)))
    kept = [text for index, text in enumerate(texts) if not any(map(_starts(text), texts[index + 1 :]))]
    return "\n".join(kept)


def _starts(text: str) -> Callable[[str], bool]:
    return lambda later: later.startswith(text)


def _wiki2019zh(record: Record) -> str:
    """The text without its first line if that is the title, which the article's first sentence repeats."""
    text, title = _text(record, "text"), record.get("title")
    first, _, body = text.lstrip().partition("\n")
    return body if isinstance(title, str) and title.strip() and first.strip() == title.strip() else text


def _news2016zh(record: Record) -> str:
    """Title and content, without `keywords` and `desc`, which repeats the beginning of the content."""
    return _lines(_text(record, "title"), _text(record, "content"))


def _webtext2019zh(record: Record) -> str:
    return _lines(_question(record), _text(record, "content"))


def _baike2018qa(record: Record) -> str:
    return _lines(_question(record), _text(record, "answer"))


def _question(record: Record) -> str:
    """Title and description, without the title if the description begins with it."""
    desc = record.get("desc")
    return _lines(_text(record, "title"), desc if isinstance(desc, str) else "")


def _translation2019zh(record: Record) -> str:
    """The Chinese side only, a single sentence."""
    return _text(record, "chinese")


SOURCES = {
    "wiki2019zh": RecordSource(_wiki2019zh, "id", "url"),
    "news2016zh": RecordSource(_news2016zh, "news_id", "source"),
    "webtext2019zh": RecordSource(_webtext2019zh, "qid", is_grouped=True),
    "baike2018qa": RecordSource(_baike2018qa, "qid"),
    "translation2019zh": RecordSource(_translation2019zh),
}


def build_record_source(
    format: str, text_fields: tuple[str, ...], id_field: str | None, origin_field: str | None
) -> RecordSource:
    """Return the reader of a format. For formats not in SOURCES the text is `text_fields` joined by newlines."""
    named = RecordSource(lambda record: _joined(record, text_fields), id_field, origin_field)
    return SOURCES.get(format, named)


def _joined(record: Record, fields: tuple[str, ...]) -> str:
    """Join fields by newlines. A null field (a missing title, say) is left out unless all are null."""
    present = [name for name in fields if name not in record or record[name] is not None]
    return "\n".join(_text(record, name) for name in present or fields)


def group_answers(items: Iterable[tuple[Document | Reject, Record]]) -> Iterator[Document | Reject]:
    """Merge consecutive answers to the same question into one document, so that the question appears once."""
    pending: Document | None = None
    for item, record in items:
        is_same = isinstance(item, Document) and pending is not None and item.id and item.id == pending.id
        if is_same and pending and len(pending.text) < _MAX_GROUP_CHARACTERS:
            pending = replace(pending, text=_lines(pending.text, _text(record, "content")))
            continue
        if pending:
            yield pending
        pending = item if isinstance(item, Document) else None
        if isinstance(item, Reject):
            yield item
    if pending:
        yield pending
