import json
import warnings

import pytest

from corpus.document import Change, Document, Reason, Reject
from corpus.reading import formats
from corpus.reading.formats import read_documents


def read(format, data, **fields):
    lines = list(enumerate(data.split(b"\n") if isinstance(data, bytes) else data.encode().split(b"\n"), 1))
    return list(read_documents(format, lines, "f", **fields))


def test_wiki_drops_a_first_line_that_is_the_title():
    one, two, three = read(
        "wiki2019zh",
        '{"id": "13", "url": "u", "title": "数学", "text": "数学\\n\\n数学是学科。"}\n'
        '{"id": "14", "title": "数学", "text": "数学是学科。\\n\\n数学"}\n'
        '{"text": "无题"}',
    )
    assert one.text.strip() == "数学是学科。" and (one.id, one.place, one.label) == (
        "13",
        "f:1",
        "f:1 (id 13)",
    )
    assert two.text == "数学是学科。\n\n数学"
    assert three == Document("无题", "f:3")


def test_clue_documents_end_at_blank_lines():
    items = read("clue", "一。\n二。\n\n\n \r\n三。\n\n四。\n")
    assert [(item.text, item.place) for item in items] == [
        ("一。\n二。", "f:1"),
        ("三。", "f:6"),
        ("四。", "f:8"),
    ]


def test_clue_without_a_blank_line_is_refused():
    with pytest.raises(ValueError, match=r"f: no blank line in 2 lines; .* use --format lines"):
        read("clue", b"a\nb")


def test_clue_with_a_blank_line_only_at_the_end_warns():
    with pytest.warns(UserWarning, match="f: 3 lines without a blank line are one document; .* use --format lines"):
        assert read("clue", "\n\na\nb\nc\n\n") == [Document("a\nb\nc", "f:3")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read("clue", "a\n\n")) == 1
        assert len(read("clue", "a\nb\n\nc")) == 2


def test_clue_document_without_end_is_refused(monkeypatch):
    monkeypatch.setattr(formats, "MAX_DOCUMENT_BYTES", 1 << 20)
    with pytest.raises(ValueError, match=r"f: the document that begins at line 3 has no blank line within 1 MiB"):
        read("clue", b"a\n\n" + b"b\n" * ((1 << 19) + 1))


def test_lines_are_documents():
    assert read("lines", b"a\n\n b \n") == [Document("a", "f:1"), Document(" b ", "f:3")]


def test_a_file_is_one_document():
    assert read("files", "\n题\n\n文。\n \n") == [Document("题\n\n文。", "f")]
    assert read("files", b" \n\n") == []
    assert read("files", b"a\n\xe4\xb8\nb") == [Reject(Reason.INVALID_UTF8, "f", "a \ufffd b")]


def test_a_file_too_long_for_a_document_is_refused(monkeypatch):
    monkeypatch.setattr(formats, "MAX_DOCUMENT_BYTES", 1 << 10)
    with pytest.raises(ValueError, match="f: a document of more than 0 MiB; in the format files each file"):
        read("files", b"b\n" * 513)


def test_jsonl_joins_the_named_fields():
    (item,) = read("jsonl", '{"t": "题", "b": "文", "k": 7}', text_fields=("t", "b"), id_field="k")
    assert item == Document("题\n文", "f:1", "7")


def test_what_pythons_json_writes_is_read():
    """NaN, and half of a character, which is left out."""
    for line in (b'{"score": NaN, "text": "a"}', b'{"score": -Infinity, "text": "\\ud83da"}'):
        assert read("jsonl", line, text_fields=("text",)) == [Document("a", "f:1")]
    (item,) = read("jsonl", '{"n": NaN, "text": "天"}'.encode("gb18030"), text_fields=("text",), encoding="gb18030")
    assert item.text == "天"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "a"', Reason.BROKEN_JSON),
        (b'["text"]', Reason.NOT_AN_OBJECT),
        (b'"text"', Reason.NOT_AN_OBJECT),
        (b'{"text": "\xff"}', Reason.INVALID_UTF8),
        (b'{"title": "a"}', Reason.FIELD_MISSING),
        (b'{"text": null}', Reason.FIELD_NOT_A_STRING),
        (b'{"text": 3}', Reason.FIELD_NOT_A_STRING),
    ],
)
def test_bad_lines_are_rejected_with_their_place(line, reason):
    detail = " (no text; it has title)" if reason == Reason.FIELD_MISSING else ""
    data = b'{"text": "a"}\n\n' + line + b'\n{"text": "b"}'
    for format, fields in (("wiki2019zh", {}), ("jsonl", {"text_fields": ("text",)})):
        assert read(format, data, **fields) == [
            Document("a", "f:1"),
            Reject(reason, f"f:3{detail}"),
            Document("b", "f:4"),
        ]


def test_a_bad_byte_costs_one_document():
    rejected = Reject(Reason.INVALID_UTF8, "f:3")
    assert read("lines", b"a\n\n\xe4\xb8\nb") == [Document("a", "f:1"), rejected, Document("b", "f:4")]
    assert read("clue", b"a\n\nok\n\xe4\xb8\n\nb") == [Document("a", "f:1"), rejected, Document("b", "f:6")]


@pytest.mark.parametrize(
    ("format", "data", "fields"),
    [
        ("lines", b"a\0b", {}),
        ("clue", b"a\nb\0\n\nc", {}),
        ("jsonl", b'{"t": "a\\u0000"}', {"text_fields": ("t",)}),
        ("webtext2019zh", b'{"title": "a", "content": "b\\u0000"}', {}),
    ],
)
def test_a_document_with_a_nul_is_rejected_with_an_excerpt(format, data, fields):
    item = read(format, data, **fields)[0]
    assert item == Reject(Reason.NUL_BYTE, "f:1") and item.excerpt.startswith("a")


def test_deeply_nested_json_is_rejected():
    (item,) = read("jsonl", b'{"t": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", text_fields=("t",))
    assert item == Reject(Reason.BROKEN_JSON, "f:1") and item.excerpt.startswith('{"t": [[')


def test_two_documents_of_one_id_are_both_read():
    one, two = read("jsonl", '{"t": "一", "k": 1}\n{"t": "二", "k": 1}', text_fields=("t",), id_field="k")
    assert (one.id, one.text, two.id, two.text) == ("1", "一", "1", "二")


@pytest.mark.parametrize("format", ["lines", "clue", "jsonl"])
@pytest.mark.parametrize("encoding", ["gb18030", "detect"])
def test_gb18030_gives_the_same_text_as_utf8_and_is_counted(format, encoding):
    records = [json.dumps({"t": text}, ensure_ascii=False) for text in ("天地玄黄", "宇宙洪荒")]
    text = "\n".join(records) if format == "jsonl" else "天地玄黄\n\n宇宙洪荒\n\n"
    fields = {"text_fields": ("t",)} if format == "jsonl" else {}
    items = read(format, text.encode("gb18030"), encoding=encoding, **fields)
    assert [item.text for item in items] == [item.text for item in read(format, text, **fields)]
    assert [item.changes for item in items] == [(Change.GB18030_DECODED,)] * 2


def test_encodings_are_detected_document_by_document():
    items = read("lines", "天地\n".encode() + "天地\n".encode("gb18030") + b"\xff\xff\n", encoding="detect")
    assert items == [
        Document("天地", "f:1"),
        Document("天地", "f:2", changes=(Change.GB18030_DECODED,)),
        Reject(Reason.UNKNOWN_ENCODING, "f:3"),
    ]
