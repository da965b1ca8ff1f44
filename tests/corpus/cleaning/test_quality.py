from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.cleaning.quality import (
    NGRAM_CHARACTERS,
    chinese_share,
    code_points,
    has_chinese_share,
    mean_line_characters,
    repeated_line_share,
    repeated_ngram_share,
)

MIXED = st.text(alphabet="中文龘\U00020000豈a1，。 \n")


@given(st.text() | MIXED)
def test_code_points_are_the_characters(text):
    assert [chr(code) for code in code_points(text)] == list(text)


@pytest.mark.parametrize(("text", "share"), [("", 0), (" \n", 0), ("中a", 0.5), ("㐀\U00020000豈 \n", 1), ("ひ한", 0)])
def test_chinese_share(text, share):
    assert chinese_share(code_points(text)) == share


@given(MIXED.filter(bool), st.floats(0, 1))
def test_has_chinese_share_agrees_with_chinese_share(text, share):
    codes = code_points(text)
    assert has_chinese_share(codes, share) == (chinese_share(codes) >= share)


def test_lines():
    assert mean_line_characters("四个字的\n两字\n") == 2
    assert repeated_line_share("甲乙\n丙\n甲乙\n甲乙") == 4 / 7
    assert repeated_line_share("甲乙\n丙") == repeated_line_share("") == 0


@given(st.text(alphabet="甲乙") | st.text(alphabet="甲乙丙", min_size=20))
def test_ngrams_are_counted_as_by_hand(text):
    ngrams = Counter(text[at : at + NGRAM_CHARACTERS] for at in range(len(text) - NGRAM_CHARACTERS + 1))
    expected = 1 - len(ngrams) / ngrams.total() if ngrams else 0.0
    assert repeated_ngram_share(code_points(text)) == pytest.approx(expected)


def test_ngrams_of_a_text_repeated_once():
    text = "".join(chr(0x4E00 + index) for index in range(1000))
    assert repeated_ngram_share(code_points(text)) == 0
    assert repeated_ngram_share(code_points(text * 2)) == pytest.approx(0.5, abs=0.01)
