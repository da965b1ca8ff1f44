import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.document import Reason
from corpus.reading.charset import common_share, decode

TEXTS = ("你好", "联通", "蒸馏让小模型像大模型。", "GB18030 与 UTF-8 混在一起", "龍門陣：傳統中文。")
HAN = st.text(alphabet=[chr(code) for code in range(0x4E00, 0x9FA6)], min_size=1)


@pytest.mark.parametrize("text", TEXTS)
def test_both_encodings_are_detected(text):
    assert decode(text.encode(), "detect") == (text, False)
    assert decode(text.encode("gb18030"), "detect") == (text, True)


@given(HAN)
def test_chinese_in_utf8_is_never_taken_for_gb18030(text):
    assert decode(text.encode(), "detect") == (text, False)


@given(st.text() | HAN)
def test_detection_never_gives_wrong_text_for_utf8(text):
    decoded = decode(text.encode(), "detect")
    assert decoded == (text, False) or decoded is Reason.UNKNOWN_ENCODING


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        # One byte gone from UTF-8 still decodes as GB18030, into text that nobody wrote.
        ("蒸馏让小模型像大模型那样工作。".encode()[1:-1], Reason.UNKNOWN_ENCODING),
        ("蒸馏".encode("gb18030") * 9 + "让小模型像大模型那样工作".encode() * 9, Reason.UNKNOWN_ENCODING),
        (b"\xff\xff", Reason.UNKNOWN_ENCODING),
        # "да" of UTF-8 is two everyday characters of GB18030.
        ("да".encode(), Reason.UNKNOWN_ENCODING),
    ],
)
def test_documents_that_fit_neither_or_both_encodings_are_rejected(data, reason):
    assert decode(data, "detect") is reason


def test_a_configured_encoding_is_not_overridden():
    assert decode("蒸馏".encode("gb18030"), "utf-8") is Reason.INVALID_UTF8
    assert decode("蒸馏𠮷".encode("gb18030"), "gb18030") == ("蒸馏𠮷", True)
    assert decode(b"\x81", "gb18030") is Reason.INVALID_GB18030
    # Valid in both, and Chinese only in UTF-8: the setting is wrong, not the text.
    assert decode("蒸馏让小模型学会大模型".encode()[:30], "gb18030") is Reason.UNKNOWN_ENCODING
    assert decode(b"plain", "gb18030") == decode(b"plain", "detect") == ("plain", False)


def test_common_share_ignores_ascii():
    assert common_share("abc") == 1.0
    assert common_share("abc的") == 1.0
    assert common_share("的龘\U00020000是") == 0.5
