"""CSV and TSV files, read through a source as in a build."""

import gzip

import pytest

from corpus.config import SourceConfig
from corpus.document import Change, Document, Reason, Reject
from corpus.source import find_inputs, read_source


def read(tmp_path, data: bytes, format="csv", name="a.csv", **more):
    (tmp_path / name).write_bytes(data)
    fields = {"text_fields": ("题", "文")} | more
    source = SourceConfig.model_validate({"name": "s", "format": format, "inputs": (str(tmp_path / name),)} | fields)
    return [item for part in find_inputs(source) for item in read_source(source, part)]


def test_quoted_fields_hold_commas_newlines_and_quotes(tmp_path):
    rows = 'id,题,文\r\n1,"天,地","玄\n黄""一"""\r\n\r\n2,"\ufeff宇",宙\r\n'
    one, two = read(tmp_path, rows.encode("utf-8-sig"), id_field="id")
    assert one == Document('天,地\n玄\n黄"一"', "a.csv:2", "1")
    assert (two.text.replace("\ufeff", ""), two.place, two.id) == ("宇\n宙", "a.csv:5", "2")


def test_columns_that_are_not_there_are_refused_with_those_that_are(tmp_path):
    with pytest.raises(ValueError, match=r"a\.csv: has no column 题, 文; the columns of its first line are title"):
        read(tmp_path, b"title,text\na,b\n")
    with pytest.raises(ValueError, match=r"b\.tsv: has no column url; the columns of its first line are 题, 文$"):
        read(tmp_path, "题\t文\n".encode(), "tsv", "b.tsv", origin_field="url")
    with pytest.raises(ValueError, match=r"d\.csv: its first line, which names the columns, cannot be read; inv"):
        read(tmp_path, "题,文\n1,2\n".encode("gbk"), name="d.csv")
    with pytest.raises(ValueError, match=r"c\.csv: looks like JSON lines, not csv; give --format jsonl"):
        read(tmp_path, '{"题": "a"}\n'.encode(), name="c.csv")


def test_a_broken_row_costs_one_document(tmp_path):
    items = read(tmp_path, '题,文\n天,地,人\n"天"x,地\n天,地\n天\n'.encode())
    broken = [Reject(Reason.BROKEN_ROW, f"a.csv:{number}") for number in (2, 3, 5)]
    assert items == [*broken[:2], Document("天\n地", "a.csv:4"), broken[2]]


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_a_quote_that_is_not_closed_is_refused(tmp_path, name):
    data = '题,文\n天,地\n天,"地\n玄,黄\n'.encode()
    with pytest.raises(ValueError, match=r"a\.csv.*: a field in quotes at or after line 3 has no closing quote"):
        read(tmp_path, gzip.compress(data) if name.endswith("gz") else data, name=name)


def test_a_quote_that_opens_nothing_takes_no_lines_of_tsv(tmp_path):
    items = read(
        tmp_path, '题\t文\n天\t地\n"玄\t黄\n第"三"句\t宇\n宙\t"洪\n荒\t日\n月\t"盈\n昃"\n"辰\t宿\n'.encode(), "tsv"
    )
    texts = ["天\n地", '"玄\n黄', '第"三"句\n宇', '宙\n"洪', "荒\n日", "月\n盈\n昃", '"辰\n宿']
    assert [item.text for item in items] == texts


def test_fields_may_be_long(tmp_path):
    (item,) = read(tmp_path, f'题,文\n题,"{"天" * 100_000}"\n'.encode())
    assert len(item.text) == 100_002


def test_quotes_inside_fields_of_tsv_are_text(tmp_path):
    items = read(tmp_path, '题\t文\n"天"地\t他说"好"\n"引\t文"\t"宙"\n'.encode(), "tsv")
    assert [item.text for item in items] == ['"天"地\n他说"好"', "引\t文\n宙"]


@pytest.mark.parametrize(("encoding", "named"), [("gb18030", "gb18030"), ("gb18030", "detect"), ("utf-16", "utf-16"),
                                                 ("big5hkscs", "big5")])  # fmt: skip
def test_other_encodings(tmp_path, encoding, named):
    (item,) = read(tmp_path, '题,文\r\n"天地,玄黃","許功蓋"\r\n'.replace("题", "題").encode(encoding), encoding=named,
                   text_fields=("題", "文"))  # fmt: skip
    changes = (Change.GB18030_DECODED,) if encoding == "gb18030" else ()
    assert item == Document("天地,玄黃\n許功蓋", "a.csv:2", changes=changes)
