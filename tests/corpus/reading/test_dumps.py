"""WikiExtractor's default form and WET, as their programs write them."""

import gzip
import json

import pytest

from corpus.building import plan as plans
from corpus.building.plan import build_plan
from corpus.config import BuildConfig, SourceConfig
from corpus.document import Document, Reason, Reject
from corpus.shards.manifest import build_tokenizer_record
from corpus.source import find_inputs, read_source
from corpus.vocabulary.tokenizer import load_tokenizer

WIKI = """<doc id="13" url="https://zh.wikipedia.org/wiki?curid=13" title="数学">
数学

数学是研究&lt;数量&gt;的学科。

又一段。
</doc>

<doc id="18" url="https://zh.wikipedia.org/wiki?curid=18" title="&quot;哲学&quot; 与 "逻辑">
哲学是一门学科。
</doc>
"""


def source(path, format, **more) -> SourceConfig:
    return SourceConfig.model_validate({"name": "s", "format": format, "inputs": (str(path),)} | more)


def read(path, data: bytes, format: str, **more):
    path.write_bytes(data)
    wanted = source(path, format, **more)
    return [item for part in find_inputs(wanted) for item in read_source(wanted, part)]


def test_wikiextractors_documents_have_id_origin_and_no_title_line(tmp_path):
    one, two = read(tmp_path / "wiki_00", WIKI.encode(), "wikiextractor")
    assert one.text.strip() == "数学是研究&lt;数量&gt;的学科。\n\n又一段。"
    assert (one.id, one.origin, one.place) == ("13", "https://zh.wikipedia.org/wiki?curid=13", "wiki_00:1")
    assert (two.text, two.id, two.place) == ("哲学是一门学科。", "18", "wiki_00:9")
    broken = read(tmp_path / "b.gz", gzip.compress(WIKI.encode().replace("又".encode(), b"\xff")), "wikiextractor")
    assert broken[0] == Reject(Reason.INVALID_UTF8, "b.gz:1") and broken[1].id == "18"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.removesuffix("</doc>\n"), "the document of line 9 has no </doc>; the file is probably cut"),
        (
            lambda text: text.replace("</doc>\n\n", "</doc>\n剩\n"),
            "line 8 lies outside <doc ...> and </doc>;",
        ),
        (lambda text: '{"id": "1", "text": "天"}\n', "line 1 lies outside <doc"),
    ],
)
def test_text_that_is_not_wikiextractors_is_refused(tmp_path, change, message):
    with pytest.raises(ValueError) as caught:
        read(tmp_path / "a", change(WIKI).encode(), "wikiextractor")
    assert f"a: {message}" in str(caught.value)


def test_a_large_file_is_split_between_documents(tmp_path, wordpiece, monkeypatch):
    monkeypatch.setattr(plans, "UNIT_BYTES", 300)
    path = tmp_path / "wiki_00"
    path.write_text(WIKI * 10, encoding="utf-8")
    wanted = source(path, "wikiextractor")
    state = {"sources": [json.loads(wanted.model_dump_json())], "tokenizer": "t", "output": "o"}
    config = BuildConfig.model_validate_json(json.dumps(state))
    plan = build_plan(config, build_tokenizer_record("t", load_tokenizer(str(wordpiece))))
    segments = [segment for unit in plan.units for segment in unit.segments]
    assert len(segments) > 4
    (part,) = find_inputs(wanted)
    pieces = [item.text for one in segments for item in read_source(wanted, one.part, len, one.start, one.end)]
    assert pieces == [item.text for item in read_source(wanted, part)] and len(pieces) == 20


def record(kind: str, text: str, url: str = "", newline: str = "\r\n") -> bytes:
    body = text.encode()
    lines = ["WARC/1.0", f"WARC-Type: {kind}", *([f"WARC-Target-URI: {url}"] if url else []),
             "Content-Type: text/plain", f"Content-Length: {len(body)}", "", ""]  # fmt: skip
    return newline.join(lines).encode() + body + b"\r\n\r\n"


PAGES = (
    record("warcinfo", "Software-Info: x\r\n")
    + record("conversion", "\ufeff首页\n\nWARC/1.0 是一种格式\n\ufeff完", "http://a.cn/1")
    + record("conversion", "第二页", "http://b.cn/2")
)


def test_wet_gives_a_document_a_page(tmp_path):
    items = read(tmp_path / "a.warc.wet.gz", gzip.compress(PAGES[:200]) + gzip.compress(PAGES[200:]), "wet")
    one, two = items
    assert (one.text, one.id, one.origin) == (
        "\ufeff首页\n\nWARC/1.0 是一种格式\n\ufeff完", "http://a.cn/1", "http://a.cn/1")  # fmt: skip
    assert two == Document("第二页", two.place, "http://b.cn/2", "http://b.cn/2")


def test_lengths_that_are_off_by_one_lose_nothing(tmp_path):
    for length in (b"8", b"10"):
        pages = PAGES.replace(b"Content-Length: 9", b"Content-Length: " + length) + PAGES
        assert [item.text for item in read(tmp_path / "a.wet", pages, "wet")][1::2] == ["第二页"] * 2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            record("response", "HTTP/1.1 200 OK", "http://a.cn"),
            "holds records of the type response, not text: WET",
        ),
        (PAGES[:-15], "has no end; the file is probably cut short"),
        (PAGES + b"junk\r\n", "is not the beginning of a WET record"),
        (PAGES.replace(b"Content-Length: 9", b"Content-Length: x"), "has the Content-Length 'x'"),
    ],
)
def test_other_warc_files_are_refused(tmp_path, data, message):
    with pytest.raises(ValueError, match=r"a\.wet: ") as caught:
        read(tmp_path / "a.wet", data, "wet")
    assert message in str(caught.value)
