"""Errors of a task's configuration."""

import pytest
from pydantic import ValidationError

from tasks.config import TaskConfig
from tasks.kinds.registry import KINDS

PAIR = {"columns": {"text_b": "b"}}


def task(**keys):
    return TaskConfig.model_validate({"name": "t", "kind": "sentence", "train": "a", "dev": "b"} | keys)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"kind": "pair"}, "columns.text_b: must be given for kind pair and for no other"),
        (PAIR, "columns.text_b: must be given for kind pair and for no other"),
        ({"metric": "entity_f1"}, "metric: a task of kind sentence has the metrics accuracy, f1, macro_f1"),
        (
            {"kind": "reading", "window_stride": 9, "metric": "f1"},
            "kind reading has the metrics reading_f1, exact_match",
        ),
        ({"kind": "entities", "format": "table"}, "format: must be json_lines or tags for kind entities"),
        ({"skip_unanswerable": True}, "skip_unanswerable: kind sentence has no questions"),
        ({"kind": "coreference", "format": "table"}, "format: must be json_lines for kind coreference"),
        (
            {"kind": "entities", "columns": {"text": "a"}},
            "columns: must be left out for kind entities, whose",
        ),
        ({"kind": "entities", "ignored_labels": ("-",)}, "ignored_labels: must be left out for kind entities"),
        (
            {"kind": "reading", "window_stride": 9, "labels": ["a", "b"]},
            "labels: must be left out for kind reading",
        ),
        ({"labels": [True, False]}, "Input should be a valid string"),
        ({"labels": [1, "1"]}, "labels: 1 is listed more than once"),
        ({"labels": ["a"]}, "labels: must list at least 2"),
        ({"labels": ["a", "b", "a"]}, "labels: a is listed more than once"),
        ({"kind": "reading", "row_tokens": 256}, "window_stride: must be less than half of row_tokens, so that"),
        ({"name": "../t"}, "String should match pattern"),
        ({"row_tokens": 15}, "greater than or equal to 16"),
        ({"window_stride": 0}, "greater than or equal to 1"),
        ({"kind": "regression"}, "unknown kind 'regression'; there are sentence, pair, coreference, entities"),
        ({"columns": {"txt": "a"}}, "columns.txt\n  Extra inputs are not permitted"),
    ],
)
def test_what_cannot_work_is_refused(keys, message):
    with pytest.raises(ValidationError) as error:
        task(**keys)
    assert message in str(error.value)


def test_every_problem_is_reported_at_once():
    with pytest.raises(ValidationError) as error:
        TaskConfig.model_validate({"name": "t", "kind": "pair", "dev": "b", "row_tokens": 1, "lables": []})
    assert {one["loc"] for one in error.value.errors()} == {("train",), ("row_tokens",), ("lables",)}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_scored_by_its_first_metric_unless_another_is_wanted(kind):
    keys = {"kind": kind, "window_stride": 9} | (PAIR if kind == "pair" else {})
    assert task(**keys).scored_by == KINDS[kind].metrics[0]
    assert [task(**keys, metric=metric).scored_by for metric in KINDS[kind].metrics] == list(KINDS[kind].metrics)


def test_one_type_of_entity_is_a_task():
    assert task(kind="entities", labels=["name"]).labels == ["name"]


def test_labels_may_be_whole_numbers_as_in_the_data():
    one = task(labels=[1, 0], ignored_labels=(-1, "?"))
    assert one.labels == ["1", "0"] and one.ignored_labels == ("-1", "?")
    assert TaskConfig.model_validate_json(one.model_dump_json()) == one


def test_a_task_does_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        task().kind = "pair"
