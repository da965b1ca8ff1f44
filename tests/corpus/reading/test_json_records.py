"""One record of each collection, shaped as its authors publish it, quirks included."""

import json

import pytest

from corpus.document import Document, Reason, Reject
from corpus.reading.formats import read_documents
from corpus.reading.json_records import SOURCES


def read(format, *records, **fields):
    lines = [(number, json.dumps(record).encode()) for number, record in enumerate(records, 1)]
    return list(read_documents(format, lines, "f", **fields))


def test_news_is_title_and_content():
    record = {
        "news_id": "610130831",
        "keywords": "导游，门票",
        "title": "故宫淡季门票40元",
        "desc": "近日有网友微博爆料称，故宫午门广场售票处出现",
        "source": "新华网",
        "time": "03-22 12:00",
        "content": "近日有网友微博爆料称，故宫午门广场售票处出现“黑导游”。",
    }
    assert read("news2016zh", record) == [
        Document(f"{record['title']}\n{record['content']}", "f:1", "610130831", "新华网")
    ]
    # A content that says the title again says it once.
    (item,) = read("news2016zh", record | {"content": record["title"] + "。今起执行。"})
    assert item.text == "故宫淡季门票40元。今起执行。"


QUESTION = {"qid": 65618973, "title": "AlphaGo只会下围棋吗？", "desc": "能写小说吗？<br>水平如何？", "star": 3}


def test_webtext_answers_to_one_question_are_one_document():
    one = QUESTION | {"content": "只会下围棋。", "answer_id": 1}
    two = QUESTION | {"content": "能写。", "answer_id": 2}
    other = {"qid": 7, "title": "另一问", "desc": "", "content": "答。"}
    assert read("webtext2019zh", one, two, {"qid": 65618973}, one, other) == [
        Document("AlphaGo只会下围棋吗？\n能写小说吗？<br>水平如何？\n只会下围棋。\n能写。", "f:1", "65618973"),
        Reject(Reason.FIELD_MISSING, "f:3 (id 65618973) (no title; it has qid)"),
        Document("AlphaGo只会下围棋吗？\n能写小说吗？<br>水平如何？\n只会下围棋。", "f:4", "65618973"),
        Document("另一问\n答。", "f:5", "7"),
    ]


def test_webtext_without_a_question_id_is_never_joined():
    record = {"title": "问", "desc": "", "content": "答"}
    assert len(read("webtext2019zh", record, record)) == 2


def test_webtext_groups_stay_of_bounded_size(monkeypatch):
    monkeypatch.setattr("corpus.reading.json_records._MAX_GROUP_CHARACTERS", 50)
    items = read("webtext2019zh", *(QUESTION | {"content": f"{index}" * 10} for index in range(9)))
    assert len(items) > 2 and all(len(item.text) < 80 for item in items)


def test_baike_leaves_out_a_description_that_repeats_the_title():
    record = {"qid": "qid_5982723620932473219", "category": "教育", "title": "人站在地球上为什么没有头朝下的感觉 "}
    answer = "地球上重力作用一直是指向球心的。\r\r因此没有。"
    title = record["title"].strip()
    for desc in ("", title, "我很想知道？"):
        (item,) = read("baike2018qa", record | {"desc": desc, "answer": answer})
        expected = [title, "我很想知道？", answer] if "想" in desc else [title, answer]
        assert item == Document("\n".join(expected), "f:1", record["qid"])
    # A description may go on where the title was cut.
    (item,) = read("baike2018qa", record | {"desc": title + "，求解", "answer": answer})
    assert item.text == f"{title}，求解\n{answer}"


def test_translation_is_the_chinese_side():
    assert read("translation2019zh", {"english": "Slowly.", "chinese": "慢慢地。"}) == [Document("慢慢地。", "f:1")]


def test_wiki_records_have_an_origin():
    (item,) = read("wiki2019zh", {"id": "13", "url": "https://zh.wikipedia.org/wiki?curid=13", "text": "数学"})
    assert item.origin == "https://zh.wikipedia.org/wiki?curid=13"


def test_jsonl_names_its_origin():
    for value, origin in (("a.com", "a.com"), (3, ""), (None, "")):
        (item,) = read("jsonl", {"t": "文", "o": value}, text_fields=("t",), origin_field="o")
        assert item == Document("文", "f:1", origin=origin)


@pytest.mark.parametrize("format", SOURCES)
def test_bad_records_are_rejected_for_their_reason(format):
    good = {"title": "题", "text": "文", "content": "文", "answer": "文", "chinese": "文"}
    items = read(format, {}, dict.fromkeys(good, 1), [good], good)
    assert [item.reason for item in items[:3]] == [
        Reason.FIELD_MISSING,
        Reason.FIELD_NOT_A_STRING,
        Reason.NOT_AN_OBJECT,
    ]
    assert items[3].text.endswith("文") and len(items) == 4


def test_a_null_field_is_empty_if_another_is_not():
    records = ({"t": None, "body": "文"}, {"t": "题", "body": None}, {"t": None, "body": None}, {"t": None})
    whole, title, none, missing = read("jsonl", *records, text_fields=("t", "body"))
    assert [whole.text, title.text] == ["文", "题"]
    assert [none.reason, missing.reason] == [Reason.FIELD_NOT_A_STRING, Reason.FIELD_MISSING]


def test_a_missing_field_is_named_with_the_fields_that_exist():
    (bare, other) = read("jsonl", {}, {"body": "文", "k": 1, "一" * 99: ""}, text_fields=("body", "t"), id_field="k")
    assert bare.label == "f:1 (no body; it has no fields)"
    assert other.label == f"f:2 (id 1) (no t; it has body, k, {'一' * 51})"


def test_a_field_of_every_list_member_becomes_a_line():
    """MNBVC's records hold a list of paragraphs."""
    fields = {"text_fields": ("文件名", "段落.内容")}
    record = {"文件名": "题", "段落": [{"行号": 0, "内容": "天地"}, {"行号": 1, "内容": "玄黄"}], "段落.x": "y"}
    assert read("jsonl", record, **fields) == [Document("题\n天地\n玄黄", "f:1")]
    assert read("jsonl", {"a": {"b": "天"}, "a.c": "地"}, text_fields=("a.b", "a.c")) == [Document("天\n地", "f:1")]
    missing = Reject(Reason.FIELD_MISSING, "f:1 (no 内容; it has 行号)")
    assert read("jsonl", record | {"段落": [{"行号": 0}]}, **fields) == [missing]
    missing = Reject(Reason.FIELD_MISSING, "f:1 (no 段落.内容; it has 文件名, 段落)")
    assert read("jsonl", record | {"段落": "天"}, **fields)[0].reason == Reason.FIELD_MISSING
    assert read("jsonl", {"文件名": "题", "段落": 3}, **fields) == [missing]
