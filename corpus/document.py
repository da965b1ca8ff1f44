"""What a reader yields: a document, or the reason why there is none."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

_EXCERPT_CHARACTERS = 60


class Reason(StrEnum):
    """Why a document of the input is not in the corpus; the manifest counts each."""

    BROKEN_JSON = "broken_json"
    NOT_AN_OBJECT = "not_an_object"
    INVALID_UTF8 = "invalid_utf8"
    INVALID_GB18030 = "invalid_gb18030"
    UNKNOWN_ENCODING = "unknown_encoding"
    NUL_BYTE = "nul_byte"
    FIELD_MISSING = "field_missing"
    FIELD_NOT_A_STRING = "field_not_a_string"
    BLOCKED_ORIGIN = "blocked_origin"
    EMPTY = "empty"
    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    TOO_LITTLE_CHINESE = "too_little_chinese"
    SHORT_LINES = "short_lines"
    REPEATED_LINES = "repeated_lines"
    REPEATED_NGRAMS = "repeated_ngrams"
    BLOCKED_WORD = "blocked_word"
    CONTAMINATED = "contaminated"
    DUPLICATE = "duplicate"
    NEAR_DUPLICATE = "near_duplicate"
    NO_TOKENS = "no_tokens"


_HINTS = {
    Reason.BROKEN_JSON: "plain text is --format lines",
    Reason.NOT_AN_OBJECT: "a line must be one JSON object; jq -c '.[]' FILE makes such lines of an array",
    Reason.FIELD_NOT_A_STRING: "name fields that hold text; OUTER.INNER is a field of another, or of each of a list",
    Reason.INVALID_UTF8: "--encoding detect or gb18030 (which covers GBK and GB2312)",
    Reason.NUL_BYTE: "text has none, but UTF-16 has; convert it to UTF-8",
    Reason.FIELD_MISSING: "name fields that the records have: --format jsonl --text-fields",
}


def hints(reasons: Iterable[Reason]) -> str:
    """What may cure rejections, each after a semicolon; nothing of reasons that are the text's own."""
    return "".join(f"; {reason}: {_HINTS[reason]}" for reason in reasons if reason in _HINTS)


class Change(StrEnum):
    """What was done to a document's text on its way; the manifest counts the documents of each."""

    GB18030_DECODED = "gb18030_decoded"
    NORMALIZED = "normalized"
    LANGUAGE_VARIANTS = "language_variants"
    HTML = "html"
    EMPTY_BRACKETS = "empty_brackets"
    URL_LINES = "url_lines"
    SIMPLIFIED = "simplified"


@dataclass(frozen=True, slots=True)
class Document:
    """Text as it stands in the input. `id` may be empty, and `origin`, the site or publisher that its record names.

    `place` is `input:line` of its first line; in a later part of a big file, `input@byte:line` from that byte on.
    """

    text: str
    place: str
    id: str = ""
    origin: str = ""
    changes: tuple[Change, ...] = ()

    @property
    def label(self) -> str:
        """Where to find it again, for messages."""
        return f"{self.place} (id {self.id})" if self.id else self.place

    def reject(self, reason: "Reason") -> "Reject":
        return Reject(reason, self.label, excerpt(self.text))


@dataclass(frozen=True, slots=True)
class Reject:
    """A document that fell out. `label` is `input:line`, with the id where there is one."""

    reason: Reason
    label: str
    excerpt: str = field(default="", compare=False)


def excerpt(text: str) -> str:
    """The first characters of a text on one line, for people to look at."""
    return " ".join(text[: 2 * _EXCERPT_CHARACTERS].split())[:_EXCERPT_CHARACTERS]
