"""The cleaning rules of a source, in a fixed order: rules that change a text first, then rules that drop it.

Every document is either kept or rejected for one reason, the first rule that it breaks.
"""

import re
from collections.abc import Callable, Iterator, Sequence

from corpus.cleaning import characters, markup, quality
from corpus.cleaning.normalization import are_plain, normalize
from corpus.config import CleaningSettings
from corpus.document import Change, Document, Reason, Reject

# ChineseWebText's shortest text: its limit on repeated n-grams was not made for shorter ones.
_MIN_NGRAM_TEXT_CHARACTERS = 200
# Shorter texts, such as titles, may have no function words, or be a Japanese name.
_MIN_SHARE_TEXT_CHARACTERS = 100
# The longest host name (RFC 1035). Trying every suffix of a longer field would take quadratic time.
_MAX_HOST_CHARACTERS = 253


class Cleaner:
    """Cleans the documents of one source. It depends on the settings only, so every worker can build its own."""

    def __init__(self, settings: CleaningSettings) -> None:
        self._settings = settings
        rules: list[tuple[bool, Change, Callable[[str], str]]] = [
            (settings.language_variants, Change.LANGUAGE_VARIANTS, markup.choose_simplified),
            (settings.html, Change.HTML, markup.strip_html),
            (settings.private_use, Change.PRIVATE_USE, characters.drop_private_use),
            (settings.empty_brackets, Change.EMPTY_BRACKETS, markup.drop_empty_brackets),
            (settings.url_lines, Change.URL_LINES, markup.drop_url_lines),
            (settings.simplified, Change.SIMPLIFIED, markup.simplify),
        ]
        self._rules = [(change, apply) for is_on, change, apply in rules if is_on]
        self._blocked_words = build_word_pattern(settings.blocked_words)
        self._blocked_origins = frozenset(origin.lower() for origin in settings.blocked_origins)

    def clean_batch(self, items: Sequence[Document | Reject]) -> Iterator[Document | Reject]:
        """Yield each document cleaned or rejected, in order; rejects pass through. Faster than one by one."""
        plain = are_plain(["" if isinstance(item, Reject) else item.text for item in items])
        for item, is_plain in zip(items, plain.tolist(), strict=True):
            yield item if isinstance(item, Reject) else self.clean(item, is_plain)

    def clean(self, document: Document, is_plain: bool = False) -> Document | Reject:
        """Return the cleaned document, with its changes, or its reject.

        Args:
            is_plain: whether the text is known to need no normalisation (`are_plain`).
        """
        if self._is_blocked(document.origin):
            return document.reject(Reason.BLOCKED_ORIGIN)
        # Before normalisation, which removes the traces.
        if (
            self._settings.wrongly_decoded
            and not is_plain
            and characters.is_damaged(quality.code_points(document.text))
        ):
            return document.reject(Reason.WRONGLY_DECODED)
        text, changes = document.text, list(document.changes)
        for change, _, after in self.changes(text, is_plain):
            text = after
            changes.append(change)
        if text is not document.text:
            document = Document(text, document.place, document.id, document.origin, tuple(changes))
        reason = self.judge(text)
        return document.reject(reason) if reason else document

    def changes(self, text: str, is_plain: bool = False) -> Iterator[tuple[Change, str, str]]:
        """Yield every change that a text needs, with the text before and after it."""
        after = text if is_plain else normalize(text)
        if after != text:
            yield Change.NORMALIZED, text, after
        text = after
        for change, apply in self._rules:
            after = apply(text)
            if after != text:
                after = normalize(after)
                yield change, text, after
                text = after

    def judge(self, text: str) -> Reason | None:
        """Return the first rule that a changed text breaks, or None."""
        settings, num_characters = self._settings, len(text)
        if not text:
            return Reason.EMPTY
        if num_characters < settings.min_characters:
            return Reason.TOO_SHORT
        if settings.max_characters and num_characters > settings.max_characters:
            return Reason.TOO_LONG
        if self._blocked_words and self._blocked_words.search(text):
            return Reason.BLOCKED_WORD
        # Limits that every text meets are skipped.
        least, most = settings.min_mean_line_characters, settings.max_repeated_line_share
        if least > 0 and quality.mean_line_characters(text) < least:
            return Reason.SHORT_LINES
        if most < 1 and quality.repeated_line_share(text) > most:
            return Reason.REPEATED_LINES
        return self._judge_characters(text)

    def _judge_characters(self, text: str) -> Reason | None:
        settings, num_characters = self._settings, len(text)
        codes = quality.code_points(text)
        if settings.wrongly_decoded and characters.has_marks(text):
            return Reason.WRONGLY_DECODED
        counts = characters.count_kinds(codes) if num_characters >= characters.MIN_CHARACTERS else []
        if settings.wrongly_decoded and counts and characters.is_wrongly_decoded(counts):
            return Reason.WRONGLY_DECODED
        least, most = settings.min_chinese_share, settings.max_repeated_ngram_share
        if least > 0 and not quality.has_chinese_share(codes, least):
            return Reason.TOO_LITTLE_CHINESE
        if num_characters >= _MIN_SHARE_TEXT_CHARACTERS and characters.kana_share(counts) > settings.max_kana_share:
            return Reason.JAPANESE
        if (
            num_characters >= _MIN_SHARE_TEXT_CHARACTERS
            and characters.function_share(counts) < settings.min_function_share
        ):
            return Reason.NO_FUNCTION_WORDS
        wants_ngrams = most < 1 and num_characters >= _MIN_NGRAM_TEXT_CHARACTERS
        return Reason.REPEATED_NGRAMS if wants_ngrams and quality.repeated_ngram_share(codes) > most else None

    def _is_blocked(self, origin: str) -> bool:
        if not origin or not self._blocked_origins:
            return False
        name = host(origin)
        if len(name) > _MAX_HOST_CHARACTERS:
            return name in self._blocked_origins
        # news.example.com is part of example.com
        return any(name[at:] in self._blocked_origins for at in (0, *_after_dots(name)))


def host(origin: str) -> str:
    """Return the host of a URL, or a publisher's name unchanged; in lower case."""
    return re.sub(r"^[a-z]+://(?:[^/@]*@)?([^/:?#]*).*", r"\1", origin.strip().lower(), flags=re.S)


def _after_dots(name: str) -> Iterator[int]:
    return (match.end() for match in re.finditer(r"\.", name))


def build_word_pattern(words: tuple[str, ...]) -> re.Pattern[str] | None:
    """Compile a pattern that finds any of the words, or None for no words.

    Words are grouped by their first character: at most places in a text one comparison rules out thousands of words.
    """
    rests: dict[str, list[str]] = {}
    for word in sorted(filter(None, map(normalize, words))):
        rests.setdefault(word[0], []).append(re.escape(word[1:]))
    groups = (f"{re.escape(first)}(?:{'|'.join(rest)})" for first, rest in rests.items())
    return re.compile("|".join(groups)) if rests else None
