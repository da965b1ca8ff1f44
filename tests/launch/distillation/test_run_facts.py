"""run.json is read completely, or every problem is reported with the file's name."""

import json

import pytest

from launch.distillation.run_facts import read_facts
from launch.job.facts import RanOn, read_ran_on

FACTS = {
    "corpus": {"fingerprint": "f", "tokens": 5, "documents": 2, "sources": [{"name": "a", "licence": "b"}]},
    "teacher": None,
    "unreached_parameters": {"small": []},
    "probe": None,
    "ran_on": [{"step": 0, "device": "CPU", "teacher": None, "students": "float32", "relation_kernels": ["portable"]}],
}


def test_unknown_facts_are_ignored(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(FACTS | {"machine": "two cores"}))
    assert read_facts(tmp_path / "run.json").model_dump() == FACTS


def test_older_runs_noted_no_machine(tmp_path):
    assert read_ran_on(tmp_path / "run.json") == []
    (tmp_path / "run.json").write_text(json.dumps({name: FACTS[name] for name in FACTS if name != "ran_on"}))
    assert read_ran_on(tmp_path / "run.json") == read_facts(tmp_path / "run.json").ran_on == []
    (tmp_path / "run.json").write_text(json.dumps({"ran_on": FACTS["ran_on"]}))  # all that a task's stages note
    noted = RanOn(device="CPU", students="float32", relation_kernels=["portable"])
    assert read_ran_on(tmp_path / "run.json") == [noted]


def test_every_problem_is_reported(tmp_path):
    path = tmp_path / "run.json"
    with pytest.raises(ValueError, match=r"run\.json: cannot be read: No such file"):
        read_facts(path)
    path.write_text(json.dumps(FACTS | {"corpus": {"fingerprint": 3, "tokens": -1, "documents": 2, "sources": []}}))
    with pytest.raises(ValueError, match=r"run\.json: not written by a run:") as caught:
        read_facts(path)
    assert {line.split(":")[0] for line in str(caught.value).splitlines()[1:]} == {
        "corpus.fingerprint",
        "corpus.tokens",
    }
