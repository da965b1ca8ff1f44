"""Questions are read from every form in which they are published."""

import json

import pytest

from tasks.config import TaskConfig
from tasks.examples import Question
from tasks.kinds.registry import KINDS
from tasks.readers import read_task

TEXT = "水在零度结冰"
PLACE = "train:1, data 1, paragraphs 1, qas 1: question Q0: answers"


def task(path, **keys):
    return TaskConfig(name="t", kind="reading", train=str(path), dev=str(path), window_stride=16, **keys)


def save(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


def reading(tmp_path, name, *answers, text=TEXT):
    qas = [{"id": f"Q{n}", "question": "几度", "answers": one} for n, one in enumerate(answers)]
    value = {"data": [{"paragraphs": [{"context": text, "qas": qas}]}]}
    (tmp_path / name).write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return str(tmp_path / name)


def test_answers_a_character_off_go_where_their_words_stand(tmp_path):
    train = reading(tmp_path, "train", [{"text": "零度", "answer_start": 3}])
    dev = reading(tmp_path, "dev", [{"text": "摄氏零度", "answer_start": -1}])  # words of its own: they only score
    data = read_task(TaskConfig(name="t", kind="reading", train=train, dev=dev, window_stride=16))
    assert data.train == (Question("Q0", "几度", "水在零度结冰", ((2, "零度"),)),)
    assert data.num_moved == 1 and data.dev[0].answers == ((-1, "摄氏零度"),)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (
            [[{"text": "百度", "answer_start": 0}]],
            "train: questions with an answer that is not in the text: 1 of 1, e.g. Q0; set skip_unanswerable to true",
        ),
        ([[], [{"text": "", "answer_start": -1}]], "train: questions with no answer: 2 of 2, e.g. Q0, Q1; set skip_un"),
        ([], "contains no questions"),
        ([[{"text": "零度"}]], rf"{PLACE} must be a list of .*, got \[.* \('answer_start'\)"),
        ([{"text": ["零度"], "answer_start": []}], f"{PLACE} must be a list of"),
        ([[{"text": ["零度"], "answer_start": 2}]], f"{PLACE} must be a list of"),
        (["零度"], f"{PLACE} must be a list of .* \\(no list\\)"),
    ],
)
def test_questions_that_cannot_be_used_are_named(tmp_path, answers, message):
    train = reading(tmp_path, "train", *answers)
    with pytest.raises(ValueError, match=message):
        read_task(task(train))


def test_a_file_to_read_may_begin_with_a_mark_and_must_be_utf_8(tmp_path):
    train = reading(tmp_path, "train", [{"text": "零度", "answer_start": 2}])
    whole = (tmp_path / "train").read_bytes()
    task = TaskConfig(name="t", kind="reading", train=train, dev=train, window_stride=16)
    before = read_task(task)
    (tmp_path / "train").write_bytes(b"\xef\xbb\xbf" + whole)
    assert read_task(task) == before
    (tmp_path / "train").write_bytes(whole.decode().encode("gbk"))
    with pytest.raises(ValueError, match=r"train: not UTF-8: invalid .* at byte \d+; if it is GB18030: iconv"):
        read_task(task)


QUESTION = {"question": "几度", "id": "Q0"}
HUB = {"context": TEXT, **QUESTION, "answers": {"text": ["零度"], "answer_start": [2]}}
FORMS = {
    "squad": {"data": [{"paragraphs": [{"context": TEXT, "qas": [
        {**QUESTION, "answers": [{"text": "零度", "answer_start": 2}]}]}]}]},
    "cmrc2018": [{"context_id": "C", "context_text": TEXT, "title": "水", "qas": [
        {"query_id": "Q0", "query_text": "几度", "answers": ["零度"]}]}],
    "hub_nested": {"data": [{"paragraphs": [{"context": TEXT, "qas": [{**QUESTION, "answers": HUB["answers"]}]}]}]},
    "hub_row": HUB,
    "hub_lines": json.dumps(HUB) + "\n" + json.dumps({**HUB, "id": "Q1"}) + "\r\n",
    "hub_list": json.dumps([HUB], indent=2),
    "hub_data": {"version": "1", "data": [HUB]},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read(tmp_path, form):
    data = read_task(task(save(tmp_path / "f.json", FORMS[form])))
    assert data.train[0] == Question("Q0", "几度", TEXT, ((2, "零度"),)) and data.num_moved == 0
    assert len(data.train) == (2 if form == "hub_lines" else 1)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"data": [{"title": "水"}]}, "f.json:1, data 1: must be .* has no id or query_id, but title"),
        (
            [{"context_text": TEXT, "qas": [{"query_id": "Q0"}]}],
            "f.json: record 1, qas 1: question Q0: must be .* has no question or",
        ),
        ([["水"]], r'f.json: record 1: must be .* got \["水"\]'),
        ({"data": [{"paragraphs": {"context": TEXT}}]}, "f.json:1, data 1: must be .* its paragraphs are no list"),
        ([{"context_text": TEXT, "qas": "Q0"}], "f.json: record 1: must be .* its qas are no list"),
        ([{**HUB, "context": 1}], "f.json: record 1: question Q0: context must be text, got 1"),
        ([{"context_text": TEXT, "qas": ["Q0"]}], 'f.json: record 1, qas 1: must be .* got "Q0"'),
        (json.dumps([{**HUB, "id": "\ud83d"}]), "f.json: record 1: id has half of a character"),
        ("{", "f.json:1: not a JSON object or list on one line"),
        ("id,context\n", "f.json:1: not a JSON object or list on one line: .*; questions are JSON$"),
    ],
)
def test_other_forms_are_refused(tmp_path, value, message):
    with pytest.raises(ValueError, match=message):
        read_task(task(save(tmp_path / "f.json", value)))


def asked(path):
    found = KINDS["reading"].inputs(path, task("train.json"))
    return [(one.id, one.problem.removeprefix(str(path)).partition(" must be {")[0]) for one in found]


def test_a_question_to_predict_that_cannot_be_read_is_named_and_the_others_are_asked(tmp_path):
    qas = [QUESTION | {"answers": "unread"}, {"id": "Q1"}, QUESTION | {"id": 2}, {"question": "几度"}, 5]
    path = save(tmp_path / "f.json", {"data": [{"paragraphs": [{"context": TEXT, "qas": qas}, {"qas": 3}]}, HUB]})
    place = ":1, data 1, paragraphs 1, qas"
    assert asked(path) == [
        ("Q0", ""), ("Q1", f"{place} 2: question Q1:"), ("2", ""), (3, f"{place} 4:"), (4, f"{place} 5:"),
        (5, ":1, data 1, paragraphs 2:"), ("Q0", ""),
    ]  # fmt: skip
    path = save(tmp_path / "f.jsonl", "\n".join([json.dumps(HUB), "{", json.dumps(HUB | {"id": "Q1", "context": 1})]))
    problems = [":2: not a JSON object or list on one line", ":3: question Q1: context must be text, got 1"]
    assert [(name, text.partition(": Expecting")[0]) for name, text in asked(path)] == [
        ("Q0", ""), (1, problems[0]), ("Q1", problems[1])
    ]  # fmt: skip


def test_questions_to_predict_may_be_a_table(tmp_path):
    path = save(tmp_path / "f.csv", f"id,context,question,answers\nQ0,{TEXT},几度,\nQ1,{TEXT}\n")
    assert [one.example for one in KINDS["reading"].inputs(path, task("train.json"))] == [
        Question("Q0", "几度", TEXT, ()), None
    ]  # fmt: skip
    assert asked(path)[1] == ("Q1", ":3: has 2 columns instead of 4")
    assert asked(save(tmp_path / "f.csv", "text,question\n水,几度\n")) == [(0, ":2:")]


def test_questions_that_cannot_be_answered_are_left_out_on_request(tmp_path):
    answers = [{"text": "零度", "answer_start": 2}], [], [{"text": "百度", "answer_start": 0}]
    train, dev = reading(tmp_path, "train", *answers), reading(tmp_path, "dev", *answers)
    wanted = TaskConfig(
        name="t", kind="reading", train=train, dev=dev, window_stride=16, skip_unanswerable=True
    )  # fmt: skip
    with pytest.warns(UserWarning) as warned:
        data = read_task(wanted)
    assert [str(one.message).removeprefix(str(tmp_path)) for one in warned] == [
        "/train: questions with no answer: 1 of 3, e.g. Q1: left out",
        "/train: questions with an answer that is not in the text: 1 of 3, e.g. Q2: left out",
        "/dev: questions with no answer: 1 of 3, e.g. Q1: left out",
    ]
    # The words of a development question need not be in its text: they only score.
    assert [one.id for one in data.train] == ["Q0"] and [one.id for one in data.dev] == ["Q0", "Q2"]
    assert "3 questions without an answer in their text left out" in data.summary
    with pytest.raises(ValueError, match="train: contains no questions with an answer"), pytest.warns(UserWarning):
        read_task(task(reading(tmp_path, "train", []), skip_unanswerable=True))
