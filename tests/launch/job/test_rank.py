"""Errors are reported once per host."""

from argparse import Namespace
from pathlib import Path

import pytest

from launch.job import rank
from launch.job.rank import REFUSED, find_run, refuse
from launch.job.world import World


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (World(0, 0, 4), "error: no file\n"),
        (World(1, 1, 4), ""),
        (World(2, 0, 4), "[rank 2] error: no file\n"),
        (World(3, 1, 4), ""),
    ],
)
def test_the_first_rank_of_every_host_says_why(place, said, capsys, monkeypatch):
    monkeypatch.setattr(rank, "SPEAK_SECONDS", 0)
    assert refuse(place, ValueError("no file")) == REFUSED
    assert capsys.readouterr().err == said


def test_a_run_that_was_begun_needs_no_config(tmp_path):
    (tmp_path / "config.json").touch()
    arguments = Namespace(config=None, run=tmp_path)
    assert find_run(arguments) == tmp_path and arguments.config == tmp_path / "config.json"
    arguments = Namespace(config=Path("configs/tiny.json"), run=tmp_path)
    assert find_run(arguments) == tmp_path and arguments.config == Path("configs/tiny.json")
    assert find_run(Namespace(config=Path("configs/tiny.json"), run=None)) == Path("runs/tiny")


def test_neither_a_config_nor_a_run_that_was_begun_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^give --config FILE to start a run, or --run FOLDER to resume one$"):
        find_run(Namespace(config=None, run=None))
    with pytest.raises(ValueError, match=f"^--run {tmp_path}: no run has started there; give --config too$"):
        find_run(Namespace(config=None, run=tmp_path))
