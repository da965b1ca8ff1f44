"""Arrays, values over several lines and several values a line, in chunks of any size."""

import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.config import SourceConfig
from corpus.document import Reason
from corpus.reading import lines
from corpus.reading.formats import split_stream
from corpus.reading.json_values import has_record_a_line
from corpus.source import find_inputs, read_source

LEAVES = st.text('天"\\{}[]\n, ', max_size=6) | st.integers() | st.none()
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('a"}{', max_size=3), inner, max_size=3)
)
RECORDS = st.lists(
    st.dictionaries(st.text("kt[", min_size=1, max_size=2), VALUES, min_size=1, max_size=3), min_size=2, max_size=5
)
FORMS = {
    "array": json.dumps,
    "array over lines": lambda records: json.dumps(records, indent=2, ensure_ascii=False),
    "element a line": lambda records: "[\n" + ",\n".join(map(json.dumps, records)) + "\n]\n",
    "values over lines": lambda records: "\n".join(json.dumps(record, indent=1) for record in records),
    "lines that end with commas": lambda records: ",\n".join(map(json.dumps, [*records, {}])),
    "several a line": lambda records: "".join(map(json.dumps, records)),
}


def split(text: str, size: int = 1 << 20, encoding="utf-8"):
    data = text.encode()
    chunks = [data[start : start + size] for start in range(0, len(data), size)]
    return list(split_stream(chunks, "f", "jsonl", encoding))


@settings(max_examples=150, deadline=None)
@given(RECORDS, st.sampled_from(list(FORMS)), st.integers(1, 40), st.sampled_from(["", "\ufeff", " \n"]))
def test_every_form_gives_the_records(records, form, size, head):
    got = [json.loads(value) for _, value in split(head + FORMS[form](records), size)]
    assert [value for value in got if value != {}] == records


def test_a_record_a_line_is_read_by_lines():
    for text in ('{"a": 1}\n{\n', '{"a": "cut\n{}', '{"a": NaN}\n', '{"a": 1} junk\n{}', "\n\n{}\n", '"a"\n', ""):
        assert has_record_a_line(text.encode())
    for text in ("[", '{\n "a": 1}', '{"a": 1}{"a": 2}', '{"a": 1},\n', ' \n{"data": [\n{'):
        assert not has_record_a_line(text.encode())


def test_what_is_no_object_is_yielded_to_be_rejected():
    values = [json.loads(value) for _, value in split('[["a", "b"], {"t": 1}, "c", 5]')]
    assert values == [["a", "b"], {"t": 1}, ["c", 5]]


def test_a_newline_in_a_string_costs_its_record():
    values = [value for _, value in split('[{"t": "a\nb"},\n{"t": "c"},\n{"t": "d"}]')]
    assert values[-2:] == [b'{"t": "c"}', b'{"t": "d"}']


@pytest.mark.parametrize("text", ['[{"t": "a"},', '[{"t": "a"}, {"t"', '{\n"t": "a",\n'])
def test_a_value_without_an_end_is_refused(text):
    with pytest.raises(ValueError, match=r"f: the JSON value at or after line \d has no end; the file is cut short"):
        split(text)


def test_a_value_that_is_too_long_is_refused(monkeypatch):
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 1 << 12)
    with pytest.raises(
        ValueError, match=r"f: the JSON value at or after line 1 is longer than 0 MiB; if the records lie"
    ):
        split('{\n"data": [' + '{"t": "a"},\n' * 1000, 500)


def test_an_array_of_any_size_takes_little_memory():
    def chunks():
        yield b"["
        for _ in range(2000):
            yield b'{"t": "' + b"x" * 10_000 + b'"},'
        yield b"{}]"

    tracemalloc.start()
    assert sum(1 for _ in split_stream(chunks(), "f", "jsonl", "utf-8")) == 2001
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("encoding", ["gb18030", "detect", "big5"])
def test_arrays_in_encodings_with_brackets_in_characters_are_refused(encoding):
    with pytest.raises(ValueError, match=r"f: is a JSON array .* in UTF-8 alone; convert it first, e\.g\. iconv"):
        split("[{}]", encoding=encoding)


def read(tmp_path, text, **more):
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    values = {"name": "s", "format": "jsonl", "text_fields": ("t",), "inputs": (str(tmp_path / "a.json"),)} | more
    source = SourceConfig.model_validate(values)
    return [item for part in find_inputs(source) for item in read_source(source, part)]


@pytest.mark.parametrize(
    ("value", "path"), [({"v": 1, "data": [{"t": "天"}, {"t": "地"}]}, ".data[]"), ({"a": {"t": "天"}, "b": {}}, ".[]")]
)
def test_one_object_that_holds_the_records_is_refused_with_the_way(tmp_path, value, path):
    for indent in (None, 2):
        with pytest.raises(ValueError) as caught:
            read(tmp_path, json.dumps(value, indent=indent))
        assert f"a.json: is one object that has no text itself, but holds the records; jq -c '{path}' FILE" in str(
            caught.value
        )


def test_text_is_not_read_as_json(tmp_path):
    with pytest.raises(ValueError, match=r"a\.json: is no JSON, it begins with '天地'; give the --format that it has"):
        read(tmp_path, "天地\n玄黄\n")
    (item,) = read(tmp_path, '["天", "地"]')
    assert item.reason == Reason.NOT_AN_OBJECT
