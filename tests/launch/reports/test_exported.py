"""The exported forms of a report: read, drawn with the best trade-offs joined, and named where they do not fit."""

import json

import pytest

from launch.reports.charts import draw_forms
from launch.reports.exported import pareto_front, read_forms
from tests.launch.reports.test_charts import texts


def record(score="accuracy", **changes):
    forms = {
        name: {"megabytes": size, "milliseconds": {"16": time / 8, "128": time, "512": 5 * time}, "score": value}
        for name, size, time, value in (
            ("torch", 92.0, 60.0, 0.7),
            ("onnx", 93.0, 50.0, 0.7),
            ("int8", 23.0, 20.0, 0.69),
        )
    }
    return {"score": score, "checked_on": "the 10 development examples of t", "forms": forms} | changes


def write(folder, values):
    folder.mkdir()
    (folder / "export.json").write_text(values if isinstance(values, str) else json.dumps(values))
    return str(folder)


def test_every_form_is_drawn_against_latency_and_size(tmp_path):
    forms = read_forms({"a": write(tmp_path / "a", record()), "b": write(tmp_path / "b", record())})
    assert [form.name for form in forms] == ["a, torch", "a, onnx", "a, int8", "b, torch", "b, onnx", "b, int8"]
    assert (forms[2].score, forms[2].milliseconds, forms[2].num_tokens) == (pytest.approx(69), 20, 128)
    charts = draw_forms(forms)
    assert [caption for caption, _ in charts] == [
        "Exported forms: score against latency", "Exported forms: score against size"
    ]  # fmt: skip
    assert {
        "a",
        "b",
        "torch",
        "onnx",
        "int8",
        "accuracy, %",
        "milliseconds a text of 128 tokens, one CPU thread",
    } <= texts(charts[0][1])
    assert {"b", "onnx", "MB on disk"} <= texts(charts[1][1]) and draw_forms([]) == []


def test_the_front_has_what_no_other_beats_in_both():
    assert pareto_front([(3, 7), (1, 5), (2, 4), (4, 7), (5, 9)]) == [1, 0, 4]
    assert pareto_front([(1, 5), (1, 6)]) == [1] and pareto_front([]) == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (record(None), r"export.json: has no score: export the student with --task"),
        ("{", r"export.json: not written by launch/export.py: JSONDecodeError"),
        ({"forms": {}}, r"export.json: not written by launch/export.py: KeyError\('score'\)"),
        ([1], r"export.json: not written by launch/export.py: TypeError"),
    ],
)
def test_files_that_are_none_of_an_export_are_named(values, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_forms({"a": write(tmp_path / "a", values)})


def test_a_missing_file_and_scores_of_two_kinds_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"--exported a=.*: has no export.json, which launch/export.py writes"):
        read_forms({"a": str(tmp_path)})
    folders = {"a": write(tmp_path / "a", record()), "b": write(tmp_path / "b", record("f1"))}
    with pytest.raises(
        ValueError, match=r"--exported: a, int8 was scored by accuracy on .*, b, int8 by f1 on .*--task"
    ):
        read_forms(folders)
