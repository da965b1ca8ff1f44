"""Suites: tasks that are on the disk, published rows beside ours, limits checked against measured costs."""

import json
import statistics
from argparse import Namespace

import pytest

from launch import evaluate_tasks
from launch.evaluation.suites import BASE, Suite, file_to_predict, find_tasks, read_suite, render_suite, suite_names
from launch.evaluation.table import measure_costs
from tasks.config import TaskConfig
from tasks.readers import read_task

NLPCC = read_suite("nlpcc2020")


def test_the_suites_are_those_of_the_help():
    assert suite_names() == ["clue10", "nlpcc2020", "rbt4"]
    with pytest.raises(ValueError, match="--suite clue11: no such suite; there are clue10, nlpcc2020, rbt4"):
        read_suite("clue11")


@pytest.mark.parametrize("name", ["clue10", "nlpcc2020", "rbt4"])
def test_published_rows_have_all_tasks_and_their_average(name):
    suite = read_suite(name)
    assert suite.published and all(row.source for row in suite.published)
    for row in suite.published:
        assert not row.scores or set(row.scores) == set(suite.tasks)
        if row.scores and row.average is not None:
            assert statistics.fmean(row.scores.values()) == pytest.approx(row.average, abs=0.03), (
                row.model
            )  # as published


def put(folder, *paths):
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()


def test_tasks_are_looked_for_in_a_folder(tmp_path):
    put(tmp_path, "csl/train.json", "csl/dev.json", "cluener/train.jsonl", "cluener/dev.json", "cmrc2018/train.json")
    put(tmp_path, "c3/d-train.json", "c3/m-train.json", "c3/d-dev.json", "c3/test1.0.json", "c3/test1.1.json")
    found, missing = find_tasks([*NLPCC.tasks, "c3"], tmp_path)
    assert [*found] == ["cluener", "csl", "c3"]
    assert found["cluener"].train == str(tmp_path / "cluener/train.jsonl")
    assert found["c3"].train == str(tmp_path / "c3/*-train.json")
    assert missing == [
        f"cluewsc2020 is not on this disk: there is no {tmp_path}/cluewsc2020/train.json",
        f"cmrc2018 is not on this disk: there is no {tmp_path}/cmrc2018/dev.json",
    ]
    assert file_to_predict(found["c3"]) == tmp_path / "c3/test1.1.json" and file_to_predict(found["csl"]) is None


SCORES = {"small": {"cluener": 0.5, "cluewsc2020": 0.6, "csl": 0.7, "cmrc2018": 0.4}}
COSTS = {
    "small": {"num_parameters": 11.4e6, "milliseconds_per_text": 5.0},
    "large": {"num_parameters": 30e6, "milliseconds_per_text": 20.0},
    BASE: {"num_parameters": 102e6, "milliseconds_per_text": 50.0},
}


def test_published_rows_stand_beside_ours_and_limits_are_checked():
    scores = SCORES | {"large": SCORES["small"]}
    table = render_suite("nlpcc2020", NLPCC, scores, COSTS, [])
    assert "| nlpcc2020 | cluener | cluewsc2020 | csl | cmrc2018 | average | source |" in table
    assert "| **small** | 50.00 | 60.00 | 70.00 | 40.00 | 55.00 | here |" in table
    assert "| baseline |  |  |  |  | 69.29 | " in table
    assert f"small keeps the limits: 11.4 of 12 million parameters, 0.100 of 0.125 of the time of {BASE}." in table
    assert "large is too large and too slow: 30.0 of 12 million parameters, 0.400 of 0.125 of" in table
    assert "limits:" not in render_suite("nlpcc2020", NLPCC, SCORES, {}, [])


def test_averages_are_over_the_tasks_that_are_here():
    rows = {"model": "A", "average": 60.0, "scores": {"csl": 80.0, "c3": 40.0}, "source": "there"}
    other = {"model": "B", "average": 50.0, "source": "there"}
    suite = Suite.model_validate({"about": "About.", "tasks": ("csl", "c3"), "published": (rows, other)})
    table = render_suite("s", suite, {"own": {"csl": 0.7}}, {}, ["c3 is not on this disk: there is no file"])
    assert "| A | 80.00 | 80.00 | there |" in table and "| B |  | 50.00 over all tasks | there |" in table
    assert "About. Averages are over the tasks that are here: c3 is not on this disk: there is no file." in table


def arguments(**values):
    known = {"tasks": [], "suite": None, "data": None, "models": ["a=b"], "overrides": [], "seeds": 1}
    return Namespace(**known | {"config": evaluate_tasks.ROOT / "configs/evaluation/clue.json"} | values)


def test_a_suite_stands_for_its_tasks(tmp_path):
    put(tmp_path, "csl/train.json", "csl/dev.json")
    evaluation, missing = evaluate_tasks._read(arguments(suite="nlpcc2020", data=tmp_path))
    assert [*evaluation.tasks] == ["csl"] and len(missing) == 3
    evaluation, missing = evaluate_tasks._read(arguments(tasks=["csl"], data=tmp_path))
    assert evaluation.tasks["csl"].train == str(tmp_path / "csl/train.json") and missing == []
    for wrong in ({}, {"tasks": ["csl"], "suite": "clue10"}):
        with pytest.raises(ValueError, match="--tasks or --suite: give one of them"):
            evaluate_tasks._read(arguments(**wrong))
    with pytest.raises(ValueError, match="tnews is not on this disk"):
        evaluate_tasks._read(arguments(tasks=["csl", "tnews"], data=tmp_path))
    with pytest.raises(ValueError, match="cluener is not on this disk"):
        evaluate_tasks._read(arguments(suite="nlpcc2020", data=tmp_path / "none"))


@pytest.mark.slow
def test_the_time_of_a_base_model_is_measured_beside_the_others(teacher_folder, tmp_path):
    (tmp_path / "data").write_text("".join(json.dumps({"sentence": "天地", "label": one}) + "\n" for one in "ab"))
    files = dict.fromkeys(("train", "dev"), str(tmp_path / "data"))
    data = read_task(TaskConfig(name="t", kind="sentence", **files))
    costs = measure_costs({"tiny": str(teacher_folder)}, [data], with_base=True)
    assert costs[BASE]["num_parameters"] > 101e6
    assert costs["tiny"]["milliseconds_per_text"] < costs[BASE]["milliseconds_per_text"]
