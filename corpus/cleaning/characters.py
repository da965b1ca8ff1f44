"""Counts of the kinds of characters in a text, and what they tell: a wrong codec, Japanese, no function words."""

import re
from functools import cache

import numpy as np

from corpus.cleaning.quality import code_points
from corpus.reading.charset import common_characters

BLANK, OTHER, KANA, LATIN_1, RARE_HAN, COMMON_HAN, FUNCTION_HAN = range(7)
_NUM_KINDS = 7
_FUNCTION_CHARACTERS = "的是在不了有和一这為为上以人时時年月日中大与與及或等可于於也到将將从從对對之而其所者這"

# Shares of short texts mean little. Of 59,988 good documents of 30 characters and more 7 break the limits below.
MIN_CHARACTERS = 30
# Good documents have at least 0.75 here; UTF-8 read as GBK at most 0.53, GBK read as Big5 at most 0.74.
_MIN_COMMON_SHARE = 0.7
_MAX_LATIN_1_SHARE = 0.3  # no language has as many; UTF-8 and GBK read as Latin-1 or Windows-1252 have at least 0.35
_MAX_DAMAGED_SHARE = 0.02  # replacement characters and C1 controls
_MAX_PRIVATE_SHARE = 0.1
# U+FFFD, written as UTF-8 and read as GBK, is 锟斤拷; memory that a debugger filled is 烫, 屯 or 葺.
_MARKS = re.compile("锟斤拷|锟|斤拷|烫{3,}|屯{3,}|葺{3,}")
_MAX_MARKS_SHARE, _MAX_MARKS_SHARE_OF_SHORT = 0.02, 0.5
_PRIVATE_USE = re.compile("[\ue000-\uf8ff\U000f0000-\U000ffffd\U00100000-\U0010fffd]+")


def drop_private_use(text: str) -> str:
    """Remove private-use characters: only the font of the page that they are from gives them a meaning."""
    return _PRIVATE_USE.sub("", text) if _is_private(code_points(text)).any() else text  # the pattern alone is slow


def count_kinds(codes: np.ndarray) -> list[int]:
    """Return how many characters are of each kind, 7 numbers in the order of the constants above."""
    return np.bincount(_kinds()[np.minimum(codes, 0xFFFF)], minlength=_NUM_KINDS).tolist()


def is_damaged(codes: np.ndarray) -> bool:
    """Whether the code points of a text, not yet normalised, hold many characters that no good text has."""
    if len(codes) < MIN_CHARACTERS:
        return False
    num_damaged = np.count_nonzero((codes == 0xFFFD) | (codes - np.uint32(0x80) < 0x20))
    num_private = np.count_nonzero(_is_private(codes))
    return bool(num_damaged > _MAX_DAMAGED_SHARE * len(codes) or num_private > _MAX_PRIVATE_SHARE * len(codes))


def _is_private(codes: np.ndarray) -> np.ndarray:
    return (codes - np.uint32(0xE000) < 0x1900) | (codes >= 0xF0000)


def has_marks(text: str) -> bool:
    """Whether much of a text is 锟斤拷 or the like, which a wrong codec or a debugger leaves behind."""
    if not ("锟" in text or "烫烫烫" in text or "屯屯屯" in text):
        return False
    limit = _MAX_MARKS_SHARE if len(text) >= MIN_CHARACTERS else _MAX_MARKS_SHARE_OF_SHORT
    matches = _MARKS.findall(text)
    return len(matches) > 1 and sum(map(len, matches)) > limit * len(text)


def is_wrongly_decoded(counts: list[int]) -> bool:
    """Whether the characters of a text, counted by `count_kinds`, are those that a wrong codec leaves behind."""
    num_common = counts[COMMON_HAN] + counts[FUNCTION_HAN]
    num_han = num_common + counts[RARE_HAN]
    is_rare = num_han >= MIN_CHARACTERS and num_common < _MIN_COMMON_SHARE * num_han
    return is_rare or counts[LATIN_1] > _MAX_LATIN_1_SHARE * (sum(counts) - counts[BLANK])


def kana_share(counts: list[int]) -> float:
    """Return the share of hiragana and katakana among all but spaces and newlines; 0 for an empty text."""
    num_visible = sum(counts) - counts[BLANK]
    return counts[KANA] / num_visible if num_visible else 0.0


def function_share(counts: list[int]) -> float:
    """Return the share of function characters, such as 的, 是 and 在, among Han characters; 1 where there are none."""
    num_han = counts[RARE_HAN] + counts[COMMON_HAN] + counts[FUNCTION_HAN]
    return counts[FUNCTION_HAN] / num_han if num_han else 1.0


@cache
def _kinds() -> np.ndarray:
    """The kind of each code point of the basic plane, uint8 [65536]."""
    kinds = np.full(1 << 16, OTHER, dtype=np.uint8)
    kinds[: ord(" ") + 1] = BLANK
    kinds[0xA0:0x100] = LATIN_1
    kinds[0x3041:0x30FB] = KANA  # not the middle dot and the long-vowel mark, which Chinese texts have too
    han = np.zeros(1 << 16, dtype=bool)
    han[0x3400:0xA000] = han[0xF900:0xFB00] = True
    kinds[han] = RARE_HAN
    kinds[han & common_characters()] = COMMON_HAN
    kinds[[ord(char) for char in _FUNCTION_CHARACTERS]] = FUNCTION_HAN
    return kinds
