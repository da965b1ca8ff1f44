"""Reading a run: the last record of each step, and every fault named with its file and line."""

import json
import re
from pathlib import Path

import pytest

from launch.reports.run import Run, read_run

CONFIG = {"students": [{"name": "b"}, {"name": "a"}], "teacher": {"path": "t"}}


def write_run(folder: Path, records: list[dict], config: object = CONFIG) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "run.json").write_text('{"machine": "two cores"}')
    return folder


def test_a_continued_run_reads_as_if_it_had_never_stopped(tmp_path):
    run = read_run(write_run(tmp_path, [{"step": s, "b/loss": v} for s, v in ((1, 9.0), (3, 8), (2, 7), (3, 6))]))
    assert run.series("b/loss") == ([1, 2, 3], [9, 7, 6])
    assert run.students == ["b", "a"] and run.facts == {"machine": "two cores"}


def test_series_leave_out_what_was_not_logged_or_not_finite():
    records = [
        {"step": 1.0, "a": 1.0},
        {"step": 2.0},
        {"step": 3.0, "a": float("nan")},
        {"step": 4.0, "a": 4.0},
    ]
    assert Run(records, CONFIG, {}).series("a") == ([1, 4], [1, 4])


def test_loss_terms_are_the_student_s_own_with_the_loss_first():
    names = [
        "b/relation/value",
        "b/loss",
        "b/hidden/0",
        "b/learning_rate",
        "b/grad_norm",
        "b/skipped_steps",
        "b/skipped_in_a_row",
        "b/probe/neighbour_accuracy",
        "bb/loss",
        "seconds",
    ]
    run = Run([{"step": 1.0, **dict.fromkeys(names, 1.0)}], CONFIG, {})
    assert run.loss_terms("b") == ["loss", "hidden/0", "relation/value"]
    assert run.loss_terms("a") == []


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.json", None, "config.json: no such file; is"),
        ("run.json", None, "run.json: no such file; is"),
        ("config.json", "{", "config.json: not JSON ("),
        ("run.json", "[]", "run.json: want a JSON object"),
        ("config.json", "{}", "config.json: want a list of students, each with a name"),
        ("config.json", '{"students": []}', "config.json: want a list of students"),
        ("config.json", '{"students": [{"size": 1}]}', "config.json: want a list of students"),
        ("config.json", '{"students": [{"name": "a"}], "teacher": null}', "the run had no teacher to compare its"),
    ],
)
def test_a_missing_or_foreign_file_is_named(tmp_path, name, text, message):
    run = write_run(tmp_path, [{"step": 1}])
    (run / name).unlink()
    if text is not None:
        (run / name).write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        read_run(run)
