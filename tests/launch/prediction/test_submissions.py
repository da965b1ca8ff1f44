"""Files for CLUE's boards have their names and forms, and a zip has only files that are of them."""

import json
import re
from dataclasses import replace
from pathlib import Path
from zipfile import ZipFile

import pytest

from launch.evaluation.suites import Suite, read_suite
from launch.prediction.packing import check_file, pack_files
from launch.prediction.submissions import submission_lines, submission_path
from tasks.config import TaskConfig
from tests.launch.prediction.conftest import run_predict
from tests.launch.prediction.test_predictions import read

SUITE = Suite.model_validate({"about": "", "tasks": ("csl", "cmrc2018"), "num_answers": {"csl": 2},
                              "files": {"csl": "csl_predict.json", "cmrc2018": "cmrc2018_predict.json"}})  # fmt: skip


TEST = Path("data/test.json")


def task(name):
    return TaskConfig(name=name, kind="sentence", train="", dev="")


def test_names_are_fixed(tmp_path):
    assert submission_path(task("ocnli"), tmp_path, TEST) == tmp_path / "ocnli_50k_predict.json"
    assert submission_path(task("tnews"), tmp_path / "new", TEST).name == "tnews11_predict.json"
    assert submission_path(task("chid"), tmp_path / "chid10_predict.json", TEST).name == "chid10_predict.json"
    for name, suite in (("cluener", "nlpcc2020"), ("cluewsc2020", "nlpcc2020"), ("c3", "clue10")):
        path = tmp_path / read_suite(suite).files[name]
        assert submission_path(task(name), path, TEST) == path
    assert submission_path(task("tnews"), tmp_path, Path("test1.0.json")).name == "tnews10_predict.json"
    assert submission_path(task("csl"), tmp_path, Path("test1.0.json")).name == "csl_predict.json"
    with pytest.raises(ValueError, match=r"ocnli_predict.json: for ocnli the boards read ocnli_50k_predict.json; or"):
        submission_path(task("ocnli"), tmp_path / "ocnli_predict.json", TEST)
    with pytest.raises(ValueError, match="--form clue: complaints is none of CLUE's tasks: afqmc, tnews, "):
        submission_path(task("complaints"), tmp_path, TEST)


def test_labels_of_tnews_are_codes():
    lines = [json.loads(line) for line in submission_lines(task("tnews"), [{"id": 0, "label": "news_house"},
             {"id": 1, "label": "116"}])]  # fmt: skip
    assert lines == [{"id": 0, "label": "106", "label_desc": "news_house"}, {"id": 1, "label": "116"}]
    with pytest.raises(ValueError, match=r"'3' is no label of tnews: news_story, news_culture, .*, news_game"):
        list(submission_lines(task("tnews"), [{"id": 0, "label": "3"}]))


def test_answers_to_questions_are_one_object():
    answers = [{"id": "TEST_0_QUERY_0", "answer": "美国"}, {"id": "TEST_0_QUERY_1", "answer": ""}]
    (text,) = submission_lines(task("cmrc2018"), answers)
    assert json.loads(text) == {"TEST_0_QUERY_0": "美国", "TEST_0_QUERY_1": ""} and "美国" in text
    (text,) = submission_lines(task("chid"), [{"id": "#idiom1#", "label": 3, "answer": "百尺竿头"}])
    assert json.loads(text) == {"#idiom1#": 3}


def test_ids_are_the_places_of_lines_and_the_names_of_questions():
    lines = submission_lines(task("csl"), [{"id": one, "label": "1"} for one in (7, 5, 5)])
    assert [json.loads(line)["id"] for line in lines] == [0, 1, 2]
    with pytest.raises(ValueError, match="--form clue: the id Q occurs more than once in the input"):
        list(submission_lines(task("drcd"), [{"id": "Q", "answer": "a"}] * 2))


NAMES = {"sentence": "iflytek", "coreference": "cluewsc2020", "entities": "cluener", "reading": "cmrc2018",
         "choice": "c3", "idioms": "chid"}  # fmt: skip


@pytest.mark.parametrize("kind", NAMES)
def test_predictions_of_every_kind_are_of_the_published_form(made, kind, tmp_path):
    values = json.loads(made(kind).task.read_text())
    values["task"]["name"] = NAMES[kind]
    (tmp_path / "task.json").write_text(json.dumps(values))
    named = replace(made(kind), task=tmp_path / "task.json")
    answers = read(run_predict(named, tmp_path / "out.jsonl"))
    run_predict(named, tmp_path / "submit", form="clue")
    (path,) = (tmp_path / "submit").iterdir()
    assert check_file(NAMES[kind], path) == len(answers)


def test_a_submission_needs_all_answers(made, tmp_path):
    values = json.loads(made("sentence").task.read_text())
    values["task"]["name"] = "iflytek"
    (tmp_path / "task.json").write_text(json.dumps(values))
    (tmp_path / "in.jsonl").write_text('{"sentence": "天"}\n{"text": "地"}\n')
    message = r"in.jsonl:2: has no sentence; it has text\na submission needs all answers; 1 of 2 records have such"
    with pytest.raises(ValueError, match=message):
        run_predict(replace(made("sentence"), task=tmp_path / "task.json"), tmp_path, form="clue",
                    input=tmp_path / "in.jsonl")  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("csl", '{"id": 0, "label": "1"}\n{"id": 2, "label": "1"}', r':2: must have "id": 1, since answers are in'),
        ("csl", '{"id": 0, "label": 1}', ":1: label must be text, got 1"),
        ("csl", "x", ":1: not JSON: "),
        ("c3", '{"id": 0, "label": "1"}', ':1: label must be the index of a choice, got "1"'),
        (
            "cluener",
            '{"id": 0, "label": {"name": {"川": [[1, 2]]}}}',
            r":1: label must be {type: {words: [[first, last]]}}",
        ),
        ("cluener", '{"id": 0, "label": ["name"]}', r":1: label must be {type: {words: [[first, last]]}}, got "),
        ("cmrc2018", '{"Q": 1}', ": must be one object with words by question"),
        ("chid", '{"#idiom1#": "x"}', ": must be one object with a number by question"),
        ("chid", "[]", ": must be one object with a number by question"),
    ],
)
def test_files_of_another_form_are_refused(tmp_path, name, text, message):
    (tmp_path / "file.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / 'file.json'}{message}")):
        check_file(name, tmp_path / "file.json")


def test_a_zip_has_the_files_alone_and_says_what_is_lacking(tmp_path):
    (tmp_path / "csl_predict.json").write_text('{"id": 0, "label": "1"}\n')
    (tmp_path / "other.json").touch()
    assert pack_files(SUITE, tmp_path, tmp_path / "out.zip") == [
        "cmrc2018_predict.json is missing", "csl_predict.json has 1 answers, but the test set 2"
    ]  # fmt: skip
    with ZipFile(tmp_path / "out.zip") as archive:
        assert archive.namelist() == ["csl_predict.json"]
        assert archive.read("csl_predict.json") == (tmp_path / "csl_predict.json").read_bytes()
    with pytest.raises(ValueError, match=r"has none of csl_predict.json, cmrc2018_predict.json"):
        pack_files(SUITE, tmp_path / "none", tmp_path / "second.zip")
