"""Points are read from finished runs of one setting; the script fits them, and refits what it recorded."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest

from launch.planning.law import read_law
from launch.planning.points import Record, join_records, read_record
from tests.launch.planning.conftest import known_points


@pytest.fixture
def run(finished_run, tmp_path):
    """A finished run, as if its probe had measured two students of one size."""
    folder = tmp_path / "probed"
    shutil.copytree(finished_run, folder, ignore=shutil.ignore_patterns("checkpoints", "tensorboard"))
    facts = json.loads((folder / "run.json").read_text())
    facts["probe"] = {"task": "tnews", "teacher_accuracy": 0.8, "heldout": "1" * 64, "num_heldout_rows": 8}
    (folder / "run.json").write_text(json.dumps(facts))
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    for name, loss, accuracy in (("small", 2.5, 0.4), ("other", 2.0, 0.9)):
        last |= {f"{name}/probe/heldout_relation_loss": loss, f"{name}/probe/neighbour_accuracy": accuracy}
    (folder / "metrics.jsonl").write_text("\n".join([*lines[:-1], json.dumps(last)]) + "\n")
    return folder


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_finished_run_gives_a_point_a_student(run):
    record = read_record(run)
    done = json.loads((run / "done.json").read_text())
    small, other = record.points
    assert (small.run, small.student, small.tokens, small.loss) == ("probed", "small", done["tokens"], 2.5)
    assert small.kept == pytest.approx(0.5) and other.kept == 1.0, "at most the teacher's"
    assert small.parameters == other.parameters == 2 * (4 * 12 * 12 + 2 * 12 * 20 + 9 * 12 + 20)
    assert record.setting.relation_heads == 12 and record.setting.teacher_sizes.num_layers == 4
    assert "name" not in record.setting.config["student"] and "seed" not in record.setting.config["corpus"]


def test_runs_that_give_no_points_are_refused(run, finished_run):
    with pytest.raises(ValueError, match=r"had no held-out loss; give its configuration a teacher and probe.heldout"):
        read_record(finished_run)
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(text.replace("small/probe/heldout_relation_loss", "small/probe/other"))
    with pytest.raises(ValueError, match=r"metrics.jsonl: step 6 has no small/probe/heldout_relation_loss"):
        read_record(run)
    (run / "done.json").unlink()
    with pytest.raises(ValueError, match=r"is not done \(no done.json\); a law takes finished runs alone"):
        read_record(run)


def test_students_must_differ_in_sizes_alone(run):
    config = json.loads((run / "config.json").read_text())
    config["students"][1]["optimizer"]["lr"] = 0.5
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"differ in more than their sizes: other in student.optimizer.lr"):
        read_record(run)


@pytest.mark.parametrize(("key", "value"), [("heldout", "2" * 64), ("teacher_fingerprint", "x")])
def test_records_of_two_settings_are_not_joined(setting, key, value):
    first = Record(setting=setting, points=known_points())
    moved = Record(setting=setting.model_copy(update={"teacher": "elsewhere"}), points=known_points())
    assert len(join_records([(Path("a"), first), (Path("b"), moved)]).points) == 32
    other = Record(setting=setting.model_copy(update={key: value}), points=known_points())
    with pytest.raises(ValueError, match=f"b: differs from a in {key}: a law is of one setting"):
        join_records([(Path("a"), first), (Path("b"), other)])


def test_the_script_fits_records_and_draws(setting, tmp_path, monkeypatch, capsys):
    points = known_points()
    (tmp_path / "runs.json").write_text(Record(setting=setting, points=points[:-1]).model_dump_json())
    (tmp_path / "unseen.json").write_text(Record(setting=setting, points=points[-1:]).model_dump_json())
    law, again = tmp_path / "law.json", tmp_path / "again.json"
    monkeypatch.setattr(sys, "argv", ["fit.py", str(tmp_path / "runs.json"), "--law", str(law), "--record", str(again),
                        "--unseen", str(tmp_path / "unseen.json"), "--plot", str(tmp_path / "law.png")])  # fmt: skip
    runpy.run_module("bench.law.fit", run_name="__main__")
    shown = capsys.readouterr().out
    rows = [line for line in shown.splitlines() if line.startswith("| r") and "run" not in line]
    assert len(rows) == 16 and "not fitted" in shown and "±" in rows[-1]
    assert read_law(law).num_points == 15 and len(read_record(again).points) == 15
    assert (tmp_path / "law.png").stat().st_size > 1000
