import sys
import unicodedata
from itertools import compress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.cleaning.normalization import are_plain, normalize

ODD = "\t\n\r \u00a0\u00ad\u0085\u200b\u200d\u2028\u3000\ufeff\ufffd\x00\x1f"
ODD += "⼈⺠⺍０９ＡｚａＺ，。“”é\u0301ｶﾞ가\u1100\u1161中A"


@given(st.text() | st.text(alphabet=ODD))
def test_is_idempotent(text):
    assert normalize(normalize(text)) == normalize(text)


@given(st.text() | st.text(alphabet=ODD))
def test_result_is_clean(text):
    result = normalize(text)
    assert unicodedata.is_normalized("NFC", result)
    assert result == result.strip() and "  " not in result
    assert all(line and line == line.strip() for line in result.split("\n")) or not result
    assert not [char for char in result if unicodedata.category(char) in ("Cc", "Zl", "Zp") and char != "\n"]
    assert not [char for char in result if unicodedata.category(char) == "Zs" and char != " "]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("２０２４年ＡＩ，ｇｐｔ", "2024年AI，gpt"),
        ("“引号”——……①㈱ﬁ", "“引号”——……①㈱ﬁ"),
        ("\ufeff\u3000\u3000首行\r\n\r\n\u00a0 次行\t尾 \n\n", "首行\n次行 尾"),
        ("上\r\r下\u2028末", "上\n下\n末"),
        ("零\u200b宽\ufffd与\x07控\u00ad制", "零宽与控制"),
        ("⼈⺠⽣活与⻰⾸，⺬例，龺", "人民生活与龙首，示例，龺"),
        ("e\u200b\u0301", "é"),
        ("Ａ\u0301", "Á"),
        (" \u3000\n\u200b", ""),
    ],
)
def test_policy(text, expected):
    assert normalize(text) == expected


def test_plain_text_is_untouched():
    text = "学而时习之，不亦说乎？\nHello, world! 3.14（约）"
    assert normalize(text) == text


@given(st.lists(st.text() | st.text(alphabet=ODD) | st.text(alphabet="天地 a\n，é"), min_size=1))
def test_plain_texts_are_not_changed_by_normalising(texts):
    for text, is_plain in zip(texts, are_plain(texts).tolist(), strict=True):
        assert not is_plain or normalize(text) == text


def test_every_plain_character_stays_next_to_every_other():
    """Alone none changes, and none is the second half of a composition, whatever stands before it."""
    chars = list(map(chr, range(sys.maxunicode + 1)))
    plain = set(compress(chars, are_plain(chars)))
    assert {"天", "，", "a", "0", "é"} < plain and not plain & {" ", "\n", "\u3000", "Ａ", "\u0301", "𠮷"}
    assert all(normalize(char) == char for char in plain)
    pairs = [unicodedata.decomposition(chr(code)).split() for code in range(sys.maxunicode + 1)]
    seconds = {chr(int(pair[1], 16)) for pair in pairs if len(pair) == 2 and not pair[0].startswith("<")}
    assert "\u0301" in seconds and not plain & seconds
    assert not any(unicodedata.combining(char) for char in plain)
    assert are_plain(["天 地\n玄", "天  地", " 天", "天\n", ""]).tolist() == [True, False, False, False, False]
