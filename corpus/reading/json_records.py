"""Records of named fields to documents. A new source of JSON lines is one small function and one entry of SOURCES.

A function takes the record and returns its text; `_text` rejects the record for a field that is not there or
not a string. The collections are those of github.com/brightmart/nlp_chinese_corpus, with their own quirks.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from corpus.document import Document, Reason, Reject, excerpt

Record = dict[str, Any]
_MAX_GROUP_CHARACTERS = 1 << 16


class FieldError(Exception):
    """A record cannot be a document; `reason` says why, and `detail`, which may be empty, what it has instead."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class RecordSource:
    """How a source's records read. `origin` is the field that names the site or publisher."""

    text: Callable[[Record], str]
    id: str | None = None
    origin: str | None = None
    is_grouped: bool = False

    def read(self, record: Any, place: str) -> Document | Reject:
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
    """The texts as lines, without those that are empty or that a later one begins with."""
    texts = tuple(filter(None, (text.strip() for text in texts)))
    kept = [text for index, text in enumerate(texts) if not any(map(_starts(text), texts[index + 1 :]))]
    return "\n".join(kept)


def _starts(text: str) -> Callable[[str], bool]:
    return lambda later: later.startswith(text)


def _wiki2019zh(record: Record) -> str:
    """The text begins with the title on a line of its own; an article says it again in its first sentence."""
    text, title = _text(record, "text"), record.get("title")
    first, _, body = text.lstrip().partition("\n")
    return body if isinstance(title, str) and title.strip() and first.strip() == title.strip() else text


def _news2016zh(record: Record) -> str:
    """Without `desc`, which repeats the beginning of the content, and `keywords`."""
    return _lines(_text(record, "title"), _text(record, "content"))


def _webtext2019zh(record: Record) -> str:
    return _lines(_question(record), _text(record, "content"))


def _baike2018qa(record: Record) -> str:
    return _lines(_question(record), _text(record, "answer"))


def _question(record: Record) -> str:
    """Title and description, which often says the title again."""
    desc = record.get("desc")
    return _lines(_text(record, "title"), desc if isinstance(desc, str) else "")


def _translation2019zh(record: Record) -> str:
    """The Chinese side alone: a sentence; rows pack many."""
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
    """The source that a format names; for the others the named fields, joined by newlines, are the text."""
    named = RecordSource(lambda record: _joined(record, text_fields), id_field, origin_field)
    return SOURCES.get(format, named)


def _joined(record: Record, fields: tuple[str, ...]) -> str:
    """A field that is null is empty, as a title may be, where another one is not."""
    there = [name for name in fields if name not in record or record[name] is not None]
    return "\n".join(_text(record, name) for name in there or fields)


def group_answers(items: Iterable[tuple[Document | Reject, Record]]) -> Iterator[Document | Reject]:
    """Answers to one question that follow one another become one document, so that it is asked once."""
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
