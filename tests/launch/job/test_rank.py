"""Errors are reported once per host."""

import os
import socket
from argparse import Namespace
from pathlib import Path

import pytest

from launch.job import rank
from launch.job.rank import PEER_LOST, REFUSED, find_run, refuse, run_job
from launch.job.world import GENERIC, World
from pretrain.ranks.peers import PeerLost, joined_ranks


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


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Runs rank 0 of two, which meet at this port, until they have joined; returns its exit code."""

    def run(port, train=None, **variables):
        monkeypatch.setattr(os, "environ", {k: v for k, v in os.environ.items() if k not in GENERIC} | variables)
        monkeypatch.setattr(rank, "SPEAK_SECONDS", 0)
        world = World(0, 0, 2, "127.0.0.1", port)
        world.export()

        def join(*_):
            with joined_ranks(2, lambda _: None):
                raise AssertionError("nobody else is there")

        return run_job(lambda *_: train or join, Namespace(config=tmp_path / "c.json", run=tmp_path), world, None)

    return run


def test_what_no_restart_mends_is_refused(job, capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert job(port) == REFUSED
    said = capsys.readouterr().err
    assert f"[rank 0] stopped: port {port} of " in said and "--master_port PORT" in said and "run again" not in said
    assert job(port, GLOO_SOCKET_IFNAME="none0") == REFUSED
    assert "none0: " in capsys.readouterr().err


def test_what_may_mend_is_run_again(job, capsys):
    def lose(*_):
        raise PeerLost("the connection to another rank broke")

    assert job(29500, lose) == PEER_LOST
    assert "run again to resume" in capsys.readouterr().err
