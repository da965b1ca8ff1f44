"""A hostfile that deepspeed would stumble over is refused by the recipe, with its line."""

import os
import subprocess
from pathlib import Path

import pytest

RECIPE = Path(__file__).parents[3] / "launch/recipes/hosts.sh"


def start(tmp_path, hosts):
    """Run the recipe where `deepspeed` is a command that says how it was called."""
    if hosts is not None:
        (tmp_path / "hosts").write_bytes(hosts.encode())
    command = tmp_path / "deepspeed"
    command.write_text('#!/bin/sh\necho "started $*"\n')
    command.chmod(0o755)
    environment = os.environ | {"HOSTFILE": "hosts", "INTERFACE": "lo", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    arguments = ["bash", RECIPE, "--config", "c.json"]
    return subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "hosts",
    [
        "node1 slots=8\nnode2 slots=8",
        "# two hosts\r\n\r\nuser@node1\tslots=2  \r\n10.0.0.2 slots=16 # the old one\r\n",
    ],
)
def test_good_files_are_passed_on(tmp_path, hosts):
    done = start(tmp_path, hosts)
    assert done.stdout == "started --hostfile hosts launch/gd.py --config c.json\n" and not done.returncode


@pytest.mark.parametrize(
    ("hosts", "message"),
    [
        (None, "error: HOSTFILE=hosts: cannot be read"),
        ("", "error: hosts: lists no host"),
        ("# node1 slots=8\n", "error: hosts: lists no host"),
        (
            "node1 slots=8\nnode2 lots=8\n",
            "error: hosts:2: wanted a host and its GPUs, such as node1 slots=8: node2 lots=8",
        ),
        ("node1:8\n", "error: hosts:1: wanted a host and its GPUs, such as node1 slots=8: node1:8"),
        ("node1 slots=0\n", "error: hosts:1: wanted a host and its GPUs, such as node1 slots=8: node1 slots=0"),
        ("node1 slots=8x\n", "error: hosts:1: wanted a host and its GPUs, such as node1 slots=8: node1 slots=8x"),
        ("\n\nnode1 slots=4\nnode1 slots=4\n", "error: hosts:4: this host is listed before; give it one line with all"),
        ("\ufeffnode1 slots=4\n", "error: hosts:1: begins with a byte order mark; save it as plain UTF-8"),
    ],
)
def test_bad_files_are_refused_with_the_line(tmp_path, hosts, message):
    done = start(tmp_path, hosts)
    assert done.stderr.startswith(message) and done.stderr.count("\n") == 1
    assert done.returncode == 2 and not done.stdout
