"""What a reader yields: a document, or the reason why there is none."""

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why a document of the input is not in the corpus; the manifest counts each."""

    BROKEN_JSON = "broken_json"
    NOT_AN_OBJECT = "not_an_object"
    INVALID_UTF8 = "invalid_utf8"
    FIELD_MISSING = "field_missing"
    FIELD_NOT_A_STRING = "field_not_a_string"
    EMPTY = "empty"
    CONTAMINATED = "contaminated"
    DUPLICATE = "duplicate"
    NEAR_DUPLICATE = "near_duplicate"
    NO_TOKENS = "no_tokens"


@dataclass(frozen=True, slots=True)
class Document:
    """Text as it stands in the input. `id` may be empty.

    `place` is `input:line` of its first line; in a later part of a big file, `input@byte:line` from that byte on.
    """

    text: str
    place: str
    id: str = ""

    @property
    def label(self) -> str:
        """Where to find it again, for messages."""
        return f"{self.place} (id {self.id})" if self.id else self.place


@dataclass(frozen=True, slots=True)
class Reject:
    """A document that fell out. `label` is `input:line`, with the id where there is one."""

    reason: Reason
    label: str
