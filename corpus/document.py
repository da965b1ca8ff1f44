"""Documents, and rejects: documents that are not used, each for one counted reason."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

_EXCERPT_CHARACTERS = 60


class Reason(StrEnum):
    """Why a document of the input is not in the corpus. The manifest counts the documents of each reason."""

    UNREADABLE = "unreadable"
    BROKEN_JSON = "broken_json"
    BROKEN_ROW = "broken_row"
    NOT_AN_OBJECT = "not_an_object"
    INVALID_UTF8 = "invalid_utf8"
    INVALID_GB18030 = "invalid_gb18030"
    INVALID_BIG5 = "invalid_big5"
    INVALID_UTF16 = "invalid_utf16"
    UNKNOWN_ENCODING = "unknown_encoding"
    NUL_BYTE = "nul_byte"
    FIELD_MISSING = "field_missing"
    FIELD_NOT_A_STRING = "field_not_a_string"
    BLOCKED_ORIGIN = "blocked_origin"
    EMPTY = "empty"
    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    TOO_LITTLE_CHINESE = "too_little_chinese"
    WRONGLY_DECODED = "wrongly_decoded"
    JAPANESE = "japanese"
    NO_FUNCTION_WORDS = "no_function_words"
    SHORT_LINES = "short_lines"
    REPEATED_LINES = "repeated_lines"
    REPEATED_NGRAMS = "repeated_ngrams"
    BLOCKED_WORD = "blocked_word"
    CONTAMINATED = "contaminated"
    DUPLICATE = "duplicate"
    NEAR_DUPLICATE = "near_duplicate"
    NO_TOKENS = "no_tokens"


_HINTS = {
    Reason.BROKEN_JSON: "jq -c . FILE says what is wrong with the first of them",
    Reason.BROKEN_ROW: "a row must have as many fields as the first line, with commas and quotes inside quotes",
    Reason.NOT_AN_OBJECT: "a record must be an object with fields; jq -c makes one of a string by '{text: .}', "
    "of a list of strings by '{text: join(\"\\n\")}', and of each element of an array with '.[] | ' before that",
    Reason.FIELD_NOT_A_STRING: "name fields that hold text; OUTER.INNER is a field of another, or of each of a list",
    Reason.INVALID_UTF8: "--encoding detect or gb18030 (which covers GBK and GB2312)",
    Reason.NUL_BYTE: "text has no NUL bytes, but UTF-16 has: --encoding utf-16-le or utf-16-be",
    Reason.FIELD_MISSING: "name fields that the records have: --format jsonl --text-fields",
}


def hints(reasons: Iterable[Reason]) -> str:
    """Return advice against rejections, each piece after a semicolon; nothing where only the text is to blame."""
    return "".join(f"; {reason}: {_HINTS[reason]}" for reason in reasons if reason in _HINTS)


class Change(StrEnum):
    """What was changed in a document's text. The manifest counts the documents of each change."""

    GB18030_DECODED = "gb18030_decoded"
    NORMALIZED = "normalized"
    LANGUAGE_VARIANTS = "language_variants"
    HTML = "html"
    PRIVATE_USE = "private_use"
    EMPTY_BRACKETS = "empty_brackets"
    URL_LINES = "url_lines"
    SIMPLIFIED = "simplified"


@dataclass(frozen=True, slots=True)
class Document:
    """A document: raw from a reader, or cleaned.

    Attributes:
        text: what is tokenised.
        place: `input:line` of its first line; `input@byte:line` in a later segment of a large file, where lines are
            counted from that byte on.
        id: its id in the input, for messages; may be empty.
        origin: the site or publisher that its record names; may be empty.
        changes: the changes made to the text so far.
    """

    text: str
    place: str
    id: str = ""
    origin: str = ""
    changes: tuple[Change, ...] = ()

    @property
    def label(self) -> str:
        """The place, and the id if there is one, for messages."""
        return f"{self.place} (id {self.id})" if self.id else self.place

    def reject(self, reason: "Reason") -> "Reject":
        """Return the reject that replaces this document."""
        return Reject(reason, self.label, excerpt(self.text))


@dataclass(frozen=True, slots=True)
class Reject:
    """A document that is not used. `label` is its place and id, `excerpt` the beginning of its text."""

    reason: Reason
    label: str
    excerpt: str = field(default="", compare=False)


def excerpt(text: str) -> str:
    """Return the first 60 characters of a text on one line, for messages."""
    return " ".join(text[: 2 * _EXCERPT_CHARACTERS].split())[:_EXCERPT_CHARACTERS]
