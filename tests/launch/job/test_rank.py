"""Errors are reported once per host."""

import os
import re
import socket
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from launch.job import rank
from launch.job.rank import PEER_LOST, REFUSED, find_run, refuse, run_job
from launch.job.world import GENERIC, World
from pretrain.ranks.peers import PeerLost, joined_ranks
from tests.pretrain.tiny import spawn


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


def run(port, train, folder):
    """Run rank 0 of two that meet at this port; return its exit code."""
    rank.SPEAK_SECONDS = 0
    world = World(0, 0, 2, "127.0.0.1", port)
    world.export()
    return run_job(lambda *_: train, Namespace(config=folder / "c.json", run=folder), world, None)


def join_where_nobody_can(_rank, folder):
    """In a process of its own: one that has a process group already would not join another."""

    def join(*_):
        with joined_ranks(2, lambda _: None):
            raise AssertionError("nobody else is there")

    for name, variables in (("port", {}), ("interface", {"GLOO_SOCKET_IFNAME": "none0"})):
        sys.stderr = (folder / name).open("w")
        os.environ.update(variables)
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            print(f"port {port}, exit code {run(port, join, folder)}", file=sys.stderr, flush=True)


@pytest.mark.job
def test_what_no_restart_mends_is_refused(tmp_path):
    spawn(join_where_nobody_can, (tmp_path,), num_ranks=1)
    said = (tmp_path / "port").read_text()
    port = re.search(rf"port (\d+), exit code {REFUSED}$", said)[1]
    assert f"[rank 0] stopped: port {port} of " in said and "--master_port PORT" in said and "run again" not in said
    said = (tmp_path / "interface").read_text()
    assert "none0: " in said and said.endswith(f"exit code {REFUSED}\n")


def test_what_may_mend_is_run_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(os, "environ", {k: v for k, v in os.environ.items() if k not in GENERIC})
    monkeypatch.setattr(rank, "SPEAK_SECONDS", 0)

    def lose(*_):
        raise PeerLost("the connection to another rank broke")

    assert run(29500, lose, tmp_path) == PEER_LOST
    assert "run again to resume" in capsys.readouterr().err
