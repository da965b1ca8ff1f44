import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.sentences import split_sentences

ODD = st.text(alphabet="甲a1 \n。！？!?；;…，,.“”‘’「」（）()《》\"'")


@given(st.text() | ODD)
def test_joined_sentences_are_the_text(text):
    sentences = split_sentences(text)
    assert "".join(sentences) == text and all(sentences)
    assert all("\n" not in sentence[:-1] for sentence in sentences)


@given(st.text(alphabet="甲a1.，,“”（）《 "))
def test_nothing_but_an_end_cuts(text):
    assert split_sentences(text) == ([text] if text else [])


@given(ODD)
def test_text_after_a_newline_does_not_change_what_is_before(text):
    assert split_sentences(text + "\n") + split_sentences("“甲。") == split_sentences(text + "\n“甲。")


@pytest.mark.parametrize(
    "sentences",
    [
        ["学而时习之，不亦说乎？", "有朋自远方来！！", "好；", "然后……", "没有句号"],
        ["圆周率是3.14，见www.a.cn/b.\n", "新行。\n", "末行"],
        ["他说：“你好。我走了！”", "她点头。"],
        ["“走吧！”，他说。", "“走吧”他说。"],
        ["他读《你好！北京》，又读【快讯！】新闻。", "完。"],
        ["甲（见下。共三条；略）乙。", "丙（丁。）", "戊。"],
        ["「『好。』他说。」", "外。"],
        ['他说"好。走。"', '然后"走"。', '"再见"'],
        ["Hello! ", "World? ", "末"],
        # Too long for one sentence, and never closed
        ["“" + "长" * 100 + "。", "长" * 100 + "。”", "后。"],
        ["“没有右引号。", "后。"],
        ["甲。”）", "乙"],
    ],
)
def test_sentences(sentences):
    assert split_sentences("".join(sentences)) == sentences


@pytest.mark.parametrize("piece", ["“", "“。", "（", "。", '"', "“甲"])
def test_hostile_text_takes_no_time_to_speak_of(piece):
    assert "".join(split_sentences(piece * 50_000)) == piece * 50_000
