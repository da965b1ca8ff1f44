"""Every long pass of a build reports its progress to the display that the command chose."""

from contextlib import contextmanager

import pytest

from corpus import progress
from corpus.building.builder import build_corpus, finish_corpus, match_corpus, plan_corpus, run_unit
from corpus.building.encode_step import encode_unit
from corpus.building.read_step import read_unit
from corpus.config import load_config
from corpus.progress import show_progress_with, track
from corpus.shards.shard import verify


class Shown:
    """Records progress."""

    def __init__(self, total):
        self.total, self.done = total, 0

    def update(self, amount=1):
        self.done += amount


@pytest.fixture
def shown(monkeypatch):
    found = {}

    @contextmanager
    def show(what, total, unit):
        found[what] = Shown(total)
        yield found[what]

    monkeypatch.setattr(progress, "_make_bar", None)  # to be put back
    show_progress_with(show)
    return found


@pytest.fixture
def config(tmp_path, wordpiece):
    """Two files of ten documents each, one of them in both."""
    texts = [f"天地玄黄第{index}篇宇宙洪荒日月盈昃" for index in range(10)]
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text("\n".join(texts if name == "a" else [t + name for t in texts]) + "\n")
    source = {"name": "tiny", "format": "lines", "inputs": [str(tmp_path / f"{name}.txt") for name in "ab"]}
    return load_config(None, {"tokenizer": str(wordpiece), "output": str(tmp_path / "out")}, source)


def test_progress_of_every_step_of_a_build_is_complete(config, shown):
    manifest, _ = build_corpus(config, num_workers=1)
    assert verify(manifest) == []
    counts = {what: (one.done, one.total) for what, one in shown.items() if one.total is not None}
    num_bytes = sum(item.num_bytes for source in manifest.sources for item in source.inputs)
    assert counts.pop("reading") == counts.pop("encoding") == (num_bytes, num_bytes)
    assert counts.pop("verifying") == (1, 1)
    done, total = counts.pop("comparing documents")
    assert done == total > 0 and not counts
    assert {"finding the inputs", "joining the units"} < shown.keys()
    assert build_corpus(config)[1] is False
    assert shown["comparing the inputs with the existing corpus"].done == num_bytes


def test_steps_run_by_a_scheduler_show_their_units(config, shown):
    num_units = len(plan_corpus(config)[0].units)
    for step in (read_unit, encode_unit):
        for index in range(num_units):
            run_unit(config, step, index)
        match_corpus(config)
    finish_corpus(config)
    for index in range(num_units):
        assert shown[f"read unit {index}"].done == shown[f"read unit {index}"].total > 0
        assert shown[f"encode unit {index}"].done == shown[f"encode unit {index}"].total > 0


def test_by_default_a_bar_is_shown_only_on_a_terminal(capsys):
    assert list(track("abc", "reading", 3, "blocks")) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""
