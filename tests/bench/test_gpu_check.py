"""What a first hour on a GPU runs, rehearsed on the CPU: the same code on small sizes."""

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench import gd_ways, gpu_check
from bench.gpu_job import job
from bench.gpu_sections import SECTIONS


@pytest.fixture(autouse=True)
def _teacher():
    """The teacher's sizes as they were: other benchmarks' tests count with them."""
    before = dict(gd_ways.TEACHER)
    yield
    gd_ways.TEACHER.update(before)


def test_kernels_are_compared_with_float64():
    facts = SECTIONS["kernels"](True)
    assert facts["ok"] and facts["cases"]
    for results in facts["cases"].values():
        assert results.keys() >= {"portable", "straight"}
        assert all(one["ms"] > 0 and 0 <= one["loss error"] < 1e-3 for one in results.values())


def test_a_step_is_looked_into_by_mask():
    facts = SECTIONS["waits"](True)["by mask"]
    assert list(facts) == ["full rows", "padding", "documents"]
    assert all(one["launches"] > 100 and one["attention"] for one in facts.values())


def test_steps_are_timed_and_counted():
    [step] = SECTIONS["speed"](True)["steps"]
    assert 0 < step["teacher seconds"] < step["seconds"]
    assert step["share of matrix rate"] > 0


def test_the_same_steps_twice_give_the_same_bits():
    assert SECTIONS["twice"](True)["distances"] == {"portable": {"same bits": True, "relative distance": 0.0}}


@pytest.mark.slow  # three launches of the main job
def test_the_real_job_is_stopped_continued_and_published(tmp_path):
    facts = job(True, tmp_path)
    assert facts["ok"] and facts["same bits"] and facts["relative distance"] == 0
    assert facts["difference when published"] < 1e-3


def test_every_section_has_a_limit_and_all_fit_ten_minutes():
    assert gpu_check.SECTIONS.keys() == SECTIONS.keys() | {"job"}
    assert sum(gpu_check.SECTIONS.values()) <= 600


def test_a_section_that_fails_costs_no_other(tmp_path, monkeypatch, capsys):
    def run(command: list[str], **_: object) -> SimpleNamespace:
        name, output = command[command.index("--section") + 1], command[command.index("--output") + 1]
        if name == "kernels":
            return SimpleNamespace(returncode=-11)
        if name == "waits":
            raise subprocess.TimeoutExpired(command, 60)
        Path(output).write_text(json.dumps({"ok": None}))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(gpu_check.subprocess, "run", run)
    path = tmp_path / "result.json"
    assert gpu_check.main(["--tiny", "--sections", "kernels", "waits", "twice", "--output", str(path)]) == 1
    sections = json.loads(path.read_text())["sections"]
    assert {name: one.get("problem") for name, one in sections.items()} == {
        "kernels": "ended with exit code -11", "waits": "took longer than 60 s", "twice": None
    }  # fmt: skip
    said = capsys.readouterr().out
    assert "FAILED: ended with exit code -11" in said and f"recorded in {path}" in said
    assert gpu_check.main(["--tiny", "--sections", "twice", "--output", str(path)]) == 0


def test_without_a_gpu_the_rehearsal_is_named(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit, match="torch sees no GPU here; --tiny rehearses on the CPU"):
        gpu_check.main([])
