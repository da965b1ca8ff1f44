import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.cleaning.cleaner import Cleaner, build_word_pattern, host
from corpus.cleaning.normalization import normalize
from corpus.config import CleaningSettings
from corpus.document import Change, Document, Reason, Reject

# 315 characters of everyday text as far as the rules see, no two 13-grams alike.
LONG = "".join(bytes([0xB0 + at // 94, 0xA1 + at % 94]).decode("gb2312") + "的" * (at % 20 == 0) for at in range(300))


def clean(text, origin="", **settings):
    return Cleaner(CleaningSettings(**settings)).clean(Document(text, "f:1", "7", origin))


def test_changes_are_named_in_the_order_they_are_made():
    item = clean("\u3000「漢-{zh-cn:字;zh-tw:文}-」（）<br>&hellip;\nhttp://a.cn", simplified=True)
    assert item == Document(
        "「汉字」\n…",
        "f:1",
        "7",
        changes=(
            Change.NORMALIZED,
            Change.LANGUAGE_VARIANTS,
            Change.HTML,
            Change.EMPTY_BRACKETS,
            Change.URL_LINES,
            Change.SIMPLIFIED,
        ),
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("一&nbsp;&nbsp;二<br>\n<br>三&#8203;", "一 二\n三"),
        ("一&zwnj;&nbsp;二\u200b&amp;三\u200d&nbsp;四", "一 二&三 四"),
        ("一&\u200bnbsp;二&\ufeffhellip;", "一 二…"),
        ("&#xe000;一&#xe001;&nbsp;", "一"),
    ],
)
def test_the_result_of_a_rule_is_normalized_again(text, expected):
    assert clean(text).text == expected


@pytest.mark.parametrize("rule", ["language_variants", "html", "private_use", "empty_brackets", "url_lines"])
def test_every_text_rule_can_be_switched_off(rule):
    text = "甲-{乙}-丙<b>丁</b>（）戊\ue000\nhttp://a.cn"
    on, off = clean(text), clean(text, **{rule: False})
    assert set(on.changes) - set(off.changes) == {Change(rule)}


@pytest.mark.parametrize(
    ("text", "settings", "reason"),
    [
        ("\u200b<br>（）", {}, Reason.EMPTY),
        ("四个汉字", {"min_characters": 5}, Reason.TOO_SHORT),
        ("六个汉字以上", {"max_characters": 5}, Reason.TOO_LONG),
        ("only English here 只", {}, Reason.TOO_LITTLE_CHINESE),
        ("短\n行\n诗", {"min_mean_line_characters": 1.5}, Reason.SHORT_LINES),
        ("重复的行\n" * 3 + "不重复", {}, Reason.REPEATED_LINES),
        (LONG * 3, {}, Reason.REPEATED_NGRAMS),
        ("锟斤拷" * 9, {}, Reason.WRONGLY_DECODED),
        ("日本の首都は東京都です。" * 9, {}, Reason.JAPANESE),
        ("红富士苹果新鲜水果十斤装包邮" * 8, {}, Reason.NO_FUNCTION_WORDS),
        ("含有ＢＡＤ词语", {"blocked_words": ("无关", "BAD词")}, Reason.BLOCKED_WORD),
    ],
)
def test_every_filter_rejects_for_its_reason_and_accepts(text, settings, reason):
    item = clean(text, **settings)
    assert item == Reject(reason, "f:1 (id 7)") and item.excerpt == normalize(item.excerpt)
    open_door = {"min_chinese_share": 0.0, "max_repeated_line_share": 1.0, "max_repeated_ngram_share": 1.0}
    open_door |= {"wrongly_decoded": False, "max_kana_share": 1.0, "min_function_share": 0.0}
    kept = clean(text, **open_door)
    assert isinstance(kept, Document) or reason is Reason.EMPTY


@pytest.mark.parametrize(
    "text",
    [
        "标题",
        "预装win7 ThinkPad SL410K笔记本3499元",
        "白日依山尽，\n黄河入海流。\n欲穷千里目，\n更上一层楼。",
        "甲：是。\n乙：好。\n甲：是。\n乙：行。",
        "好" * 99,
        "的" * 199,
        "恋するフォーチュンクッキー是日本女子组合AKB48的单曲",
        LONG * 2,
    ],
)
def test_good_short_and_unusual_text_is_unchanged(text):
    assert clean(text) == Document(text, "f:1", "7")


@pytest.mark.parametrize(
    ("origin", "is_blocked"),
    [
        ("https://news.bad.cn:80/x?y", True),
        ("http://user@bad.cn", True),
        ("BAD.cn", True),
        ("坏报", True),
        ("https://notbad.cn/bad.cn", False),
        ("坏报社", False),
        ("", False),
    ],
)
def test_origins_are_blocked_with_all_their_subdomains(origin, is_blocked):
    item = clean("文字", origin, blocked_origins=("Bad.cn", "坏报"))
    assert (item == Reject(Reason.BLOCKED_ORIGIN, "f:1 (id 7)")) == is_blocked


def test_an_origin_too_long_for_a_host_takes_little_time():
    start = time.process_time()
    assert isinstance(clean("文字", "." * 100_000, blocked_origins=("a.cn",)), Document)
    assert time.process_time() - start < 5  # tens of seconds where it is quadratic


def test_host():
    assert host("HTTPS://A.cn/b") == "a.cn" and host(" 新华网 ") == "新华网"


@given(st.text() | st.text(alphabet="甲a&;<br>/{}-（）， \n"))
def test_every_document_comes_out_normalized_or_rejected(text):
    item = clean(text)
    assert isinstance(item, Reject) or (item.text and item.text == normalize(item.text))


@given(st.lists(st.text(alphabet="甲乙(.*", min_size=1), min_size=1), st.text(alphabet="甲乙丙(.*"))
def test_words_are_found_as_they_are_spelled(words, text):
    assert bool(build_word_pattern(tuple(words)).search(text)) == any(word in text for word in words)
