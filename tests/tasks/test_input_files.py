"""Files to predict are read by their suffix and the form of the task; a bad record keeps its id and stops nothing."""

import json

import pytest

from tasks.config import TaskConfig
from tasks.examples import text_of
from tasks.kinds.registry import KINDS


def texts_of(path, kind="sentence", train="train", **keys):
    """The texts that are read from a file, for a task whose training file is this one."""
    config = TaskConfig(name="t", kind=kind, train=train, dev="dev", **keys)
    return [text_of(one.example)[0] if one.example else one.problem for one in KINDS[kind].inputs(path, config)]


def save(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_plain_text_is_a_text_a_line_unless_the_files_of_the_task_are_called_so(tmp_path):
    lines = save(tmp_path / "in.txt", "你好\n再见\n")
    for form in ("json_lines", "csv", "table"):
        assert texts_of(lines, format=form) == ["你好", "再见"]
    assert texts_of(lines, format="csv", has_header=False, columns={"text": 1, "label": 0}) == ["你好", "再见"]
    records = save(tmp_path / "own.txt", '{"sentence": "你好"}\n')
    assert texts_of(records, train="train.txt") == ["你好"]
    assert texts_of(save(tmp_path / "table.txt", "sentence,b\n你好,1\n"), train="t.TXT", format="csv") == ["你好"]
    assert texts_of(save(tmp_path / "tab.csv", "sentence\tb\n你好\t1\n"), train="t.csv", format="table") == ["你好"]


@pytest.mark.parametrize("name", ["in.txt", "in.bio", "in.tsv", "IN.TXT", "in"])
def test_tags_are_read_by_texts_under_any_suffix_but_json(name, tmp_path):
    path = save(
        tmp_path / name, "\ufeff商 B-company\r\n店 I-company\r\n\r\n-DOCSTART- O\n好 O\n\n坏\n\n\n奇 odd\n末 O\n\n末 O"
    )
    with path.open("ab") as file:
        file.write(b"\n\n\xff O\n\xfe O\n\n" + "完 O".encode())
    assert texts_of(path, "entities", format="tags") == [
        "商店", "好", f"{path}:7: has one column: '坏'; wanted a character and its tag",
        f"{path}:10: unknown tag 'odd'; must be O, or B-TYPE, I-TYPE and the like (BIO, BMES, BIOES, BILOU; - or _ "
        "between)", "末", f"{path}:15: not UTF-8: invalid start byte; if it is GB18030: iconv -f GB18030 -t UTF-8 "
        f"{name} > {path.stem}.utf8{path.suffix}", "完",
    ]  # fmt: skip
    lines = save(tmp_path / "in.jsonl", '{"text": "商店"}\n')
    assert texts_of(lines, "entities", format="tags") == ["商店"]


def test_suffixes_may_be_in_capitals(tmp_path):
    assert texts_of(save(tmp_path / "A.CSV", "sentence,b\n你好,1\n")) == ["你好"]
    assert texts_of(save(tmp_path / "A.TSV", "sentence\tb\n你好\t1\n")) == ["你好"]
    assert texts_of(save(tmp_path / "A.JSON", '[{"sentence": "你好"}]'), format="csv") == ["你好"]


def inputs_of(path, kind="sentence", **keys):
    config = TaskConfig(name="t", kind=kind, train="train", dev="dev", **keys)
    return [(one.id, one.problem.removeprefix(f"{path}:")) for one in KINDS[kind].inputs(path, config)]


def test_a_record_that_cannot_be_used_keeps_its_id(tmp_path):
    records = (
        {"id": 100, "sentence": "你好"},
        {"id": 101, "text": "缺列"},
        {"id": 1, "sentence": "第三"},
        {"text": "无"},
    )
    path = save(tmp_path / "in.jsonl", "".join(json.dumps(one) + "\n" for one in records))
    found = inputs_of(path)
    assert found == [
        (100, ""),
        (101, "2: has no sentence; it has id, text"),
        (1, ""),
        (3, "4: has no sentence; it has text"),
    ]
    path = save(tmp_path / "in.csv", "id,sentence\nx,你好\ny,缺,列\n1,第三\n,第四\n")
    assert inputs_of(path) == [("x", ""), ("y", "3: has 3 columns instead of 2"), ("1", ""), (3, "")]
    path = save(tmp_path / "in.csv", "sentence,id\n你,好,x\n")  # which cell is the id cannot be known
    assert inputs_of(path) == [(0, "2: has 3 columns instead of 2")]
    path.write_bytes(b"id,sentence\n\xff,x\n")  # an id that no file can hold
    assert inputs_of(path) == [(0, "")]


def test_a_question_with_choices_keeps_its_id(tmp_path):
    good = {"id": 7, "context": "天", "question": "何", "choice": ["天", "地"]}
    path = save(
        tmp_path / "in.jsonl", "".join(json.dumps(one) + "\n" for one in (good, good | {"id": 9, "choice": []}))
    )
    assert inputs_of(path, "choice") == [(7, ""), (9, "2: has 0 choices; must have at least two")]
    two = [["天"], [{"question": "何", "choice": ["天", "地"]}] * 2, "m1"]
    path = save(tmp_path / "in.jsonl", "".join(json.dumps(one) + "\n" for one in (two, [[], [{}], "m2"], two)))
    assert [name for name, _ in inputs_of(path, "choice")] == [0, 1, 2, 3, 4]  # C3's ids are those of texts
