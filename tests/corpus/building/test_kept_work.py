"""Work that is done stays done when other inputs change."""

import json

import pytest

from corpus.building import plan as plan_module
from corpus.building import read_step
from corpus.building.builder import build_corpus, finish_corpus, match_corpus, plan_corpus, run_unit
from corpus.building.encode_step import encode_unit
from corpus.building.read_step import read_unit
from corpus.building.work_folder import work_folder
from corpus.config import BuildConfig
from tests.corpus.conftest import HAN


@pytest.fixture
def build(tmp_path, wordpiece):
    """Configurations of sources that are a file each, of documents of their own."""

    def configured(*names, output="out"):
        for number, name in enumerate(names):
            if not (tmp_path / name).exists():
                (tmp_path / name).write_text("\n".join(HAN[number : number + 3] * (n + 1) for n in range(20)))
        sources = [{"name": name, "format": "lines", "inputs": [str(tmp_path / name)]} for name in names]
        state = {"sources": sources, "tokenizer": str(wordpiece), "output": str(tmp_path / output)}
        return BuildConfig.model_validate_json(json.dumps(state))

    return configured


def done(config) -> set[str]:
    return {path.name for path in work_folder(config).glob("*-*") if path.is_dir()}


def test_only_what_changed_is_read_and_encoded_again(build, tmp_path, monkeypatch):
    config = build("a", "b", "c")
    plan, _ = plan_corpus(config)
    for step in (read_unit, encode_unit):
        for index in range(3):
            run_unit(config, step, index)
        match_corpus(config)
    before = done(config)
    assert len(before) == 6 and all(f"read-{plan.key(index)}" in before for index in range(3))

    fewer = build("a", "c")  # b is left out
    plan_corpus(fewer)
    read = []
    monkeypatch.setattr(read_step, "check_unchanged", lambda part: read.append(part.name))
    for step in (read_unit, encode_unit):
        for index in range(2):
            run_unit(fewer, step, index)
        match_corpus(fewer)
    assert not read and done(fewer) == before

    (tmp_path / "a").write_text("宇宙洪荒\n日月盈昃\n")  # a is repaired
    plan_corpus(config)
    for index in range(3):
        run_unit(config, read_unit, index)
    assert set(read) == {"a"} and len(done(config) - before) == 1
    match_corpus(config)
    for index in range(3):
        run_unit(config, encode_unit, index)
    assert len(done(config) - before) == 2
    manifest = finish_corpus(config)
    assert not work_folder(config).exists()  # orphans too
    assert manifest.fingerprint == build_corpus(build("a", "b", "c", output="anew"))[0].fingerprint


def test_a_file_more_among_many_changes_the_units_near_it_alone(build, tmp_path, wordpiece, monkeypatch):
    monkeypatch.setattr(plan_module, "UNIT_BYTES", 4000)
    (tmp_path / "many").mkdir()
    for number in range(300):
        (tmp_path / "many" / f"{number:03d}").write_text("天地玄黄宇宙洪荒" * (1 + number % 7))
    source = {"name": "many", "format": "files", "inputs": [str(tmp_path / "many")]}
    state = {"sources": [source], "tokenizer": str(wordpiece), "output": str(tmp_path / "out")}
    config = BuildConfig.model_validate_json(json.dumps(state))

    def keys():
        plan, _ = plan_corpus(config)
        assert all(unit.num_bytes <= 4000 for unit in plan.units)
        return [plan.key(index) for index in range(len(plan.units))]

    before = keys()
    assert len(before) > 12
    for number in (7, 150, 290):
        path = tmp_path / "many" / f"{number:03d}a"
        path.write_text("日月盈昃")
        changed = set(keys()) - set(before)
        assert 0 < len(changed) <= 4, "no more than the units around it"
        path.unlink()
    assert keys() == before
