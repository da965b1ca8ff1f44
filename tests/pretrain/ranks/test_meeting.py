"""What no restart can mend is refused before ranks meet; with real sockets."""

import os
import socket
from datetime import timedelta
from types import SimpleNamespace

import psutil
import pytest
import torch.distributed as dist

from pretrain.ranks import meeting
from pretrain.ranks.environment import explain_lost_device
from pretrain.ranks.meeting import (
    check_interfaces,
    explain_refused_port,
    meet_nobody,
    meets_others,
    wait_for_address,
)

NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_USE_AGENT_STORE")
NAMES += ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Without a launcher's variables; those that a test sets are gone after it."""
    monkeypatch.setattr(os, "environ", {name: value for name, value in os.environ.items() if name not in NAMES})
    return os.environ


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("use_libuv", [True, False])
def test_a_port_in_use_is_named(environment, address, use_libuv):
    with socket.socket() as other:
        other.bind((address, 0))
        other.listen()
        port = other.getsockname()[1]
        environment["MASTER_PORT"] = str(port)
        wanted = (
            rf"port {port} of .*, where the ranks meet, is in use, probably by another run; give another: --master_"
        )
        with pytest.raises(ValueError, match=wanted), explain_refused_port():
            dist.TCPStore("127.0.0.1", port, 2, True, timedelta(seconds=5), use_libuv=use_libuv)


def test_a_port_of_the_system_and_other_failures(environment):
    environment["MASTER_PORT"] = "80"
    with (
        pytest.raises(ValueError, match=r"port 80 of .* is not permitted; give one above 1023"),
        explain_refused_port(),
    ):
        raise dist.DistNetworkError("failed to listen. port: 80, code: -13, name: EACCES, message: permission denied")
    with pytest.raises(dist.DistNetworkError), explain_refused_port():  # may mend
        raise dist.DistNetworkError("The client socket has timed out after 8000ms")


def test_the_only_rank_takes_a_free_port(environment):
    meet_nobody()
    assert environment["RANK"] == environment["LOCAL_RANK"] == "0" and environment["WORLD_SIZE"] == "1"
    with socket.socket() as listener:
        listener.bind((environment["MASTER_ADDR"], int(environment["MASTER_PORT"])))
    environment["LOCAL_RANK"] = "3"
    meet_nobody()
    assert environment["LOCAL_RANK"] == "3"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"WORLD_SIZE": "1"}, False),
        ({"WORLD_SIZE": "2"}, True),
        ({"WORLD_SIZE": "1", "TORCHELASTIC_USE_AGENT_STORE": "True"}, True),
    ],
)
def test_who_meets_others(environment, variables, expected):
    environment.update(variables)
    assert meets_others() == expected


def test_preparing_is_checking(environment, monkeypatch):
    monkeypatch.setattr(dist, "is_initialized", lambda: False)  # as in a process of its own
    environment.update(RANK="0", WORLD_SIZE="1", MASTER_ADDR="no-such-host.invalid", MASTER_PORT="80")
    meeting.prepare_meeting()
    assert environment["MASTER_ADDR"] == "127.0.0.1" and environment["MASTER_PORT"] != "80"
    environment.update(WORLD_SIZE="2", GLOO_SOCKET_IFNAME="none0")
    with pytest.raises(ValueError, match="GLOO_SOCKET_IFNAME=none0"):
        meeting.prepare_meeting()
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    meeting.prepare_meeting()


def test_a_host_that_nobody_knows(environment, capsys):
    environment.update(RANK="0", MASTER_ADDR="no-such-host.invalid")
    with pytest.raises(
        ValueError, match=r"MASTER_ADDR=no-such-host.invalid: .* does not know this host .*--master_addr"
    ):
        wait_for_address(0.0)
    environment["MASTER_ADDR"] = "a" * 70 + ".example"  # longer than a label may be
    with pytest.raises(ValueError, match="does not know this host"):
        wait_for_address(0.0)
    environment["RANK"] = "1"
    wait_for_address(0.01)
    assert "[rank 1] MASTER_ADDR=aaaa" in capsys.readouterr().err


def test_a_name_may_come_later(environment, monkeypatch):
    answers = iter([socket.gaierror(socket.EAI_NONAME, "unknown"), None])

    def resolve(*_):
        if error := next(answers):
            raise error

    monkeypatch.setattr(meeting, "_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(meeting.socket, "getaddrinfo", resolve)
    environment.update(RANK="0", MASTER_ADDR="gd-0.gd")
    wait_for_address(5.0)
    assert next(answers, "none") == "none"


@pytest.mark.parametrize(
    ("variable", "value", "is_refused"),
    [
        ("GLOO_SOCKET_IFNAME", "eth0", False),
        ("GLOO_SOCKET_IFNAME", "lo,eth0", False),
        ("GLOO_SOCKET_IFNAME", "eth", True),
        ("GLOO_SOCKET_IFNAME", "eth0,ib0", True),
        ("GLOO_SOCKET_IFNAME", "down0", True),
        ("NCCL_SOCKET_IFNAME", "eth", False),
        ("NCCL_SOCKET_IFNAME", "ib,eth", False),
        ("NCCL_SOCKET_IFNAME", "^ib", False),
        ("NCCL_SOCKET_IFNAME", "=eth", True),
        ("NCCL_SOCKET_IFNAME", "ib", True),
    ],
)
def test_interfaces_that_are_not_there(environment, monkeypatch, variable, value, is_refused):
    families = {"lo": socket.AF_INET, "eth0": socket.AF_INET6, "down0": socket.AF_PACKET}
    found = {name: [SimpleNamespace(family=family)] for name, family in families.items()}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: found)
    environment[variable] = value
    if not is_refused:
        check_interfaces()
        return
    with pytest.raises(ValueError) as caught:
        check_interfaces()
    assert str(caught.value).startswith(f"{variable}={value}: {socket.gethostname()} has no such network interface")
    assert str(caught.value).endswith("it has eth0, lo")


def test_a_device_that_is_lost_is_named():
    wanted = (
        "GPU 3 of .* cannot be used: CUDA error: unknown; see nvidia-smi, or leave it out with CUDA_VISIBLE_DEVICES"
    )
    with pytest.raises(ValueError, match=wanted), explain_lost_device(3):
        raise RuntimeError("CUDA error: unknown\nCompile with TORCH_USE_CUDA_DSA")
