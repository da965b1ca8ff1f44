"""Examples of CLUE's files are read exactly; errors name the file and line."""

import json

import pytest

from tasks.config import TaskConfig
from tasks.examples import Classified, Entity, Tagged
from tasks.kinds.kind import TaskData
from tasks.readers import read_task, with_unlabelled

PAIR = {"text": "sentence1", "text_b": "sentence2"}


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


@pytest.fixture
def read(tmp_path):
    """Reads a task of these records."""

    def read_records(kind, train, dev, **keys):
        files = {"train": write(tmp_path / "train.json", *train), "dev": write(tmp_path / "dev.json", *dev)}
        return read_task(TaskConfig(name="t", kind=kind, **files, **keys))

    return read_records


def sentences(*labels):
    return [{"label": label, "sentence": f"文{index}"} for index, label in enumerate(labels)]


def test_classes_are_sorted_unless_given_and_copies_are_counted(read):
    data = read("sentence", sentences("b", "a"), [{"label": "a", "sentence": "文0"}])
    assert data.labels == ("a", "b") and data.num_overlapping == 1
    assert data.train == (Classified("文0", None, 1), Classified("文1", None, 0))
    assert read("sentence", sentences("b", "a"), sentences("a"), labels=["b", "a"]).train[0].label == 0


def test_pairs_words_in_a_list_and_labels_nobody_agreed_on(read):
    records = [{"sentence1": ["水", "泵"], "sentence2": "乙", "label": label} for label in (1, 0, "-")]
    judged = [{"sentence": "文", "label": label} for label in (True, False)]
    assert read("sentence", judged, judged).labels == ("false", "true")
    data = read("pair", records, records[:1], columns=PAIR, ignored_labels=("-",))
    assert data.train[0] == Classified("水 泵", "乙", 1)
    assert len(data.train) == 2 and data.num_ignored == 1
    assert data.summary == (
        "2 training examples, 1 development examples; 2 labels (0, 1); 1 records with an ignored label left out; "
        "1 development texts that are also in training"
    )
    clean = read("sentence", sentences("b", "a"), [{"label": "a", "sentence": "新"}])
    assert clean.summary == "2 training examples, 1 development examples; 2 labels (a, b)"
    assert read("sentence", sentences(*map(str, range(99))), sentences("0")).summary.count("...") == 1


def test_examples_without_a_text_are_kept_and_counted(read):
    records = [{"sentence1": "甲", "sentence2": second, "label": label} for label, second in ((1, " "), (0, "乙"))]
    assert read("pair", records, records[1:], columns=PAIR).summary.endswith("; 1 examples with an empty text, kept")


def test_labels_that_differ_by_blanks_are_no_two_classes(read):
    with pytest.raises(ValueError, match=r"train.json: labels 'a' and 'a ' differ only by blanks$"):
        read("sentence", sentences("a", "b", "a "), sentences("a"))


def test_tables_with_and_without_a_header(tmp_path):
    (tmp_path / "a.tsv").write_text('label\ttext_a\n1\t他说"好\n0\t坏\n', encoding="utf-8")
    columns = {"text": "text_a"}
    task = TaskConfig(
        name="t", kind="sentence", train=str(tmp_path / "a.tsv"), dev=str(tmp_path / "a.tsv"), format="table",
        columns=columns,
    )  # fmt: skip
    assert [example.text for example in read_task(task).train] == ['他说"好', "坏"]
    (tmp_path / "b.txt").write_text("标题\t3\n又一\t4\n", encoding="utf-8")
    files = {"train": str(tmp_path / "b.txt"), "dev": str(tmp_path / "b.txt")}
    bare = TaskConfig(
        name="t", kind="sentence", format="table", has_header=False, columns={"text": 0, "label": 1}, **files
    )
    assert read_task(bare).labels == ("3", "4")
    (tmp_path / "a.tsv").write_text("label\ttext_a\n1\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"a.tsv:2: has 1 columns, but the header has 2"):
        read_task(task)


def table(tmp_path, text, form="table", **keys):
    (tmp_path / "t.tsv").write_bytes(text.encode())
    files = {"train": str(tmp_path / "t.tsv"), "dev": str(tmp_path / "t.tsv")}
    return read_task(TaskConfig(name="t", kind="sentence", format=form, **files, **keys))


def test_csv_has_quotes_and_lines_inside_them(tmp_path):
    long = "长" * 200_000
    data = table(tmp_path, f'label,sentence\r\n1,"甲, ""乙""\r\n丙"\r\n0,{long}\r\n', "csv")
    assert [example.text for example in data.train] == ['甲, "乙"\r\n丙', long]
    with pytest.raises(ValueError, match=r"t.tsv:3: has 1 columns, but the header has 2"):
        table(tmp_path, "label,sentence\n1,甲\n0\n", "csv")
    with pytest.raises(ValueError, match=r"t.tsv:2: not CSV: unexpected end of data"):
        table(tmp_path, 'label,sentence\n1,"甲\n', "csv")


def test_columns_are_told_apart(tmp_path):
    with pytest.raises(ValueError, match=r"t.tsv:1: has one column; columns of a table are separated by tabs"):
        table(tmp_path, "label,sentence\n1,甲\n")
    with pytest.raises(ValueError, match=r"t.tsv:1: the header has 'label' more than once"):
        table(tmp_path, "label\tsentence\tlabel\n1\t甲\t0\n")


def test_lines_of_a_table_end_where_they_end(tmp_path):
    long = "长" * 200_000
    data = table(tmp_path, f"\ufefflabel\tsentence\r\n1\ta\u2028\rb\x85c\r\n\r\n0\t{long}\r\n\n")
    assert [example.text for example in data.train] == ["a\u2028\rb\x85c", long]
    with pytest.raises(ValueError, match=r"t.tsv:2: label is empty"):
        table(tmp_path, "label\tsentence\n\t\n")
    bare = {"has_header": False, "columns": {"label": 0, "text": 1}}
    with pytest.raises(ValueError, match=r"t.tsv:2: has 3 columns, but the first row has 2"):
        table(tmp_path, "0\t前\n1\t前半\t后半\n", **bare)


def test_coreference_marks_both_spans(read):
    target = {"span1_index": 0, "span1_text": "小明", "span2_index": 4, "span2_text": "他"}
    record = {"text": "小明说，他饿了", "target": target, "label": "true"}
    data = read("coreference", [record, {**record, "label": "false"}], [record])
    assert data.train[0] == Classified("_小明_说，[他]饿了", None, 1)
    for texts, marked in ((("小明", "小明说"), "[_小明_说]，他饿了"), (("小明说", "小明"), "_[小明]说_，他饿了")):
        nested = {"span1_index": 0, "span1_text": texts[0], "span2_index": 0, "span2_text": texts[1]}
        overlapping = {**record, "target": nested}
        assert read("coreference", [overlapping, {**record, "label": "false"}], [record]).train[0].text == marked
    with pytest.raises(ValueError, match=r"train.json:1: span '她' is not the text at position 4"):
        wrong = {**record, "target": {**target, "span2_text": "她"}}
        read("coreference", [wrong, {**record, "label": "false"}], [record])
    with pytest.raises(ValueError, match=r"train.json:1: must be like .*: '0' is not a position in a text"):
        wrong = {**record, "target": {**target, "span1_index": "0"}}
        read("coreference", [wrong, {**record, "label": "false"}], [record])


def test_of_entities_that_overlap_the_longest_is_kept(read):
    label = {"company": {"招商": [[1, 2]], "好": [[4, 4]]}, "book": {"《招商》": [[0, 3]]}}
    data = read("entities", [{"text": "《招商》好", "label": label}], [{"text": "招商", "label": {}}])
    assert data.train[0].entities == (Entity(0, 4, "book"), Entity(4, 5, "company"))
    assert data.summary.endswith("; 1 entities left out that overlap longer ones")


def test_entities_end_after_their_last_character(read):
    record = {"text": "去北京大学", "label": {"organization": {"北京大学": [[1, 4]]}}}
    data = read("entities", [record], [record])
    assert data.train == (Tagged("去北京大学", (Entity(1, 5, "organization"),)),)
    assert data.labels == ("organization",)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ({"name": {"北京": [[1, 7]]}}, r"train.json:1: name '北京' at 1 to 7 is outside the text of 5 characters"),
        ({"name": {"北京": [[0, 1]]}}, r"train.json:1: name '北京' is not the text at position 0"),
        ({"name": {"北京": [[1.0, 2.0]]}}, r"train.json:1: must be like .*: 1.0 is not a position in a text"),
        ({"name": ["北京"]}, r"train.json:1: must be like .*: got \{\"text\".*; tags are format tags$"),
        ([[1, 3, "LOC"]], r"train.json:1: must be like .*: got \{\"text\".*; tags are format tags$"),
    ],
)
def test_entities_that_are_not_there_are_refused(read, label, message):
    with pytest.raises(ValueError, match=message):
        read("entities", [{"text": "去北京大学", "label": label}], [])


def test_a_task_without_entities_is_refused(read):
    with pytest.raises(ValueError, match=r"train.json: contains no entities"):
        read("entities", [{"text": "去北京大学", "label": {}}], [{"text": "去北京大学", "label": {}}])


@pytest.mark.parametrize(
    ("train", "dev", "message"),
    [
        (sentences("a", "b"), sentences("c"), r"dev.json:1: unknown label 'c'; the task has a, b"),
        (sentences("a", "a"), sentences("a"), r"train.json: a task needs at least two classes, but all labels are a"),
        ([{"sentence": "文"}], [], r"train.json:1: has no label; it has sentence"),
        ([{"sentence": "文", "label ": "a"}], [], r"train.json:1: has no label; it has sentence, 'label '$"),
        ([{"sentence": 1.5, "label": "a"}, *sentences("b")], [], r"train.json:1: sentence must be text, got 1.5"),
        (
            [{"sentence": "a\ud83d", "label": "a"}],
            [],
            r"train.json:1: sentence has half of a character \(a lone surrogate\) at 1",
        ),
        ([{"sentence": "文", "label": ["a", "b"]}], [], r'train.json:1: label must be text, got \["a", "b"\]'),
        (
            [{"sentence": "文", "label": " "}, *sentences("b")],
            [],
            r"train.json:1: label is empty; to leave out such records set ignored_labels to \[' '\]",
        ),
        (["ab", *sentences("b")], [], r'train.json:1: not a JSON object or list: "ab"'),
        ([["ab"], *sentences("b")], [], r"train.json:1: has no label; it has list"),
        (sentences("a", "b"), [], r"dev.json: contains no labelled examples"),
        ([], sentences("a"), r"train.json: contains no labelled examples"),
    ],
)
def test_records_that_cannot_be_used_are_named(read, train, dev, message):
    with pytest.raises(ValueError, match=message):
        read("sentence", train, dev)


def test_files_that_cannot_be_read_are_named(tmp_path):
    task = TaskConfig(name="t", kind="sentence", train=str(tmp_path / "none"), dev="")
    with pytest.raises(ValueError, match="none: cannot be read: No such file"):
        read_task(task)
    (tmp_path / "none").write_bytes(b"{")
    with pytest.raises(ValueError, match=r"none:1: not a JSON object or list on one line: .*; `jq -c . FILE`"):
        read_task(task)
    (tmp_path / "none").write_bytes("中 O\n".encode())
    with pytest.raises(ValueError, match=r"none:1: not a JSON .*; format may be table, csv or, for entities, tags$"):
        read_task(task)
    (tmp_path / "none").write_bytes("{}".encode("utf-16"))
    with pytest.raises(ValueError, match=r"none: not UTF-8: .*; if it is UTF-16: iconv -f UTF-16 -t UTF-8 none"):
        read_task(task)
    (tmp_path / "none").write_bytes(b"\xff")
    with pytest.raises(
        ValueError,
        match=r"none: not UTF-8: invalid start byte at byte 0; if it is GB18030: iconv -f GB18030 -t",
    ):
        read_task(task)


@pytest.mark.parametrize("indent", [None, 1])
def test_a_list_of_records_is_read_as_lines_are(tmp_path, read, indent):
    records = sentences("a", "b")
    (tmp_path / "list.json").write_text(json.dumps(records, indent=indent), encoding="utf-8")
    files = dict.fromkeys(("train", "dev"), str(tmp_path / "list.json"))
    assert read_task(TaskConfig(name="t", kind="sentence", **files)) == read("sentence", records, records)
    (tmp_path / "list.json").write_text(json.dumps([*records, {"label": "a"}], indent=indent), encoding="utf-8")
    with pytest.raises(ValueError, match=r"list.json: record 3: has no sentence; it has label"):
        read_task(TaskConfig(name="t", kind="sentence", **files))


def test_f1_of_more_than_two_classes_is_refused(read):
    with pytest.raises(ValueError, match=r"train.json: metric f1 needs two classes, got 3; use macro_f1 instead"):
        read("sentence", sentences("a", "b", "c"), sentences("a"), metric="f1")


def more(tmp_path, kind, records, name="more.jsonl", **keys):
    """The examples without labels of a task, and the message on them."""
    task = TaskConfig(name="t", kind=kind, train="a", dev="b", **keys, unlabelled=write(tmp_path / name, *records))
    data, message = with_unlabelled(TaskData((), (), (), 0, 0, 0), task)
    return data.unlabelled, message


def test_texts_without_labels_are_read_in_the_form_of_the_task(tmp_path):
    found, message = more(tmp_path, "sentence", [{"sentence": "甲"}, {"sentence": "乙", "label": "unknown"}])
    assert [one.text for one in found] == ["甲", "乙"]
    assert message == "2 unlabelled examples, without their labels, for stages with a teacher"
    (pair,), _ = more(tmp_path, "pair", [{"sentence1": "甲", "sentence2": "乙"}], columns=PAIR)
    assert (pair.text, pair.text_b) == ("甲", "乙")
    (tagged,), _ = more(tmp_path, "entities", [{"text": "甲乙"}])
    assert tagged == Tagged("甲乙", ())


def test_tagged_texts_without_labels_are_read_with_their_tags(tmp_path):
    for name in ("more.txt", "more.bio"):
        (tmp_path / name).write_text("商 B-company\n店 I-company\n\n好 O\n", encoding="utf-8")
        task = TaskConfig(
            name="t", kind="entities", format="tags", train="a.bio", dev="b.bio", unlabelled=str(tmp_path / name)
        )
        data, message = with_unlabelled(TaskData((), (), (), 0, 0, 0), task)
        assert data.unlabelled == (Tagged("商店", ()), Tagged("好", ())) and message.startswith("2 unlabelled examples")


def test_augmented_texts_are_json_lines_whatever_the_form_of_the_task(tmp_path):
    keys = {"format": "csv", "has_header": False, "columns": {"text": 1, "label": 0}}
    path = write(tmp_path / "augmented.jsonl", {"0": "x", "1": "甲", "augmented": True, "source": 0})
    more_text = tmp_path / "more.csv"
    more_text.write_text("x,乙\n", encoding="utf-8")
    task = TaskConfig(
        name="t", kind="sentence", train="a", dev="b", augmented=path, unlabelled=str(more_text), **keys
    )  # fmt: skip
    data, message = with_unlabelled(TaskData((), (), (), 0, 0, 0), task)
    assert [one.text for one in data.unlabelled] == ["甲", "乙"]
    assert message.startswith("1 augmented and 1 unlabelled examples")
    assert task.labelled.augmented is None and task.labelled.unlabelled is None


def test_texts_without_labels_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"more.jsonl:2: has no sentence; it has text"):
        more(tmp_path, "sentence", [{"sentence": "甲"}, {"text": "乙"}])
    with pytest.raises(ValueError, match=r"more.jsonl: contains no texts"):
        more(tmp_path, "sentence", [])
    task = TaskConfig(name="t", kind="sentence", train="a", dev="b", augmented=str(tmp_path / "none.jsonl"))
    with pytest.raises(ValueError, match=r"none.jsonl: cannot be read: No such file"):
        with_unlabelled(TaskData((), (), (), 0, 0, 0), task)


def test_augmented_texts_of_kinds_that_are_not_augmented_are_refused():
    with pytest.raises(ValueError, match=r"augmented: kind reading cannot be augmented: .* as task.unlabelled"):
        TaskConfig(name="t", kind="reading", train="a", dev="b", window_stride=32, augmented="c")
