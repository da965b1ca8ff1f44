import pytest

from corpus.cleaning.characters import (
    count_kinds,
    drop_private_use,
    function_share,
    is_damaged,
    is_wrongly_decoded,
    kana_share,
)
from corpus.cleaning.cleaner import Cleaner
from corpus.cleaning.quality import code_points
from corpus.config import CleaningSettings
from corpus.document import Document, Reason

TEXT = (
    "长江是亚洲第一长河，发源于青藏高原的唐古拉山脉，干流流经青海、四川、湖北、江苏等省市，"
    "在上海注入东海。流域内有近四亿人口，水力资源和航运都居全国首位，沿岸的城市与农业因此发展得很早。"
)
TRADITIONAL = (
    "長江是亞洲第一長河，發源於青藏高原的唐古拉山脈，幹流流經青海、四川、湖北、江蘇等省市，"
    "在上海注入東海。流域內有近四億人口，水力資源和航運都居全國首位，沿岸的城市與農業因此發展得很早。"
)
GOOD = [
    TEXT,
    TRADITIONAL,
    "标题",
    "什么是锟斤拷？",
    "这碗汤烫烫烫，慢点喝。",
    "㙍㙘㙦㙩：四个罕见的地名用字",
    "Être ou ne pas être, là est la question, où qu'elle naisse, dès l'été à Genève.",
    "锟斤拷是怎么来的：把不认识的字节换成替代字符，写成UTF-8，再按GBK来读。" + TEXT,
]


def judge(text, **settings):
    item = Cleaner(CleaningSettings(min_chinese_share=0.0, **settings)).clean(Document(text, "f:1"))
    return None if isinstance(item, Document) else item.reason


@pytest.mark.parametrize("text", GOOD)
def test_good_text_is_kept(text):
    assert judge(text) is None


@pytest.mark.parametrize("errors", ["replace", "ignore"])
@pytest.mark.parametrize(
    ("text", "encoding", "read_as"),
    [
        (TEXT, "utf-8", "gbk"),
        (TEXT, "utf-8", "gb18030"),
        (TEXT, "utf-8", "big5"),
        (TEXT, "utf-8", "latin-1"),
        (TEXT, "utf-8", "cp1252"),
        (TEXT, "gbk", "big5"),
        (TEXT, "gbk", "latin-1"),
        (TEXT, "gbk", "cp1252"),
        (TEXT, "utf-16-le", "utf-16-be"),
        (TRADITIONAL, "big5", "gbk"),
        (TRADITIONAL, "big5", "latin-1"),
        (TRADITIONAL, "utf-8", "big5"),
    ],
)
def test_text_read_by_another_codec_is_dropped(text, encoding, read_as, errors):
    assert judge(text.encode(encoding, "ignore").decode(read_as, errors)) is Reason.WRONGLY_DECODED
    assert judge(text.encode(encoding, "ignore").decode(encoding)) is None


def test_traces_that_normalisation_removes_are_seen():
    assert judge(TEXT.encode("gbk").decode("utf-8", "replace")) is Reason.WRONGLY_DECODED
    assert judge(TEXT[:80] + "\ufffd" * 3) is Reason.WRONGLY_DECODED and judge(TEXT + "\ufffd") is None
    # Every tenth character replaced by one of a font of the page's own
    obfuscated = "".join("\ue123" if index % 8 == 0 else char for index, char in enumerate(TEXT))
    assert judge(obfuscated) is Reason.WRONGLY_DECODED


def test_replacement_characters_read_as_gbk():
    lost = TEXT.encode("gbk").decode("utf-8", "replace").encode().decode("gbk", "replace")
    assert "锟斤拷" in lost and judge(lost) is Reason.WRONGLY_DECODED
    assert judge("锟斤拷锟斤拷") is Reason.WRONGLY_DECODED and judge("烫烫烫烫屯屯屯屯") is Reason.WRONGLY_DECODED


def test_the_rule_can_be_switched_off():
    assert judge("锟斤拷" * 20 + TEXT, wrongly_decoded=False) is None


def test_private_use_characters_are_removed():
    assert drop_private_use("天\ue000\uf8ff地\U000f0000\U0010fffd玄") == "天地玄"
    assert drop_private_use("天\ud7ff\uf900") == "天\ud7ff\uf900"


def test_shares_are_of_visible_and_of_han_characters():
    counts = count_kinds(code_points("的 人\nあア・ーA"))
    assert kana_share(counts) == 2 / 7 and function_share(counts) == 1.0
    assert function_share(count_kinds(code_points("山水 的A𠀀"))) == 1 / 3
    empty = count_kinds(code_points(""))
    assert kana_share(empty) == 0.0 and function_share(empty) == 1.0 and not is_wrongly_decoded(empty)


def test_short_texts_are_not_judged_by_shares():
    assert not is_damaged(code_points("\ufffd" * 29)) and is_damaged(code_points("\ufffd" * 30))
    rare = "".join(chr(0x4E00 + 7 * index) for index in range(29))
    assert judge(rare) is None
