"""Network interface, GPU and kernel folder of a rank."""

import os
import socket
from types import SimpleNamespace

import psutil
import pytest

from pretrain.ranks import environment
from pretrain.ranks.environment import (
    choose_gpu,
    export_local_rank,
    interface_towards,
    set_gloo_interface,
    set_triton_cache,
)

OWN = {"10.0.0.5": "ib0", "192.168.1.5": "eth0", "127.0.0.1": "lo", "fe80::1": "eth0"}


@pytest.fixture
def host(monkeypatch):
    """A host of two networks; `routes` are its own addresses by where a packet goes."""
    routes = {"10.0.0.9": "10.0.0.5", "10.0.0.5": "10.0.0.5", "127.0.0.1": "127.0.0.1", "127.0.1.1": "127.0.0.1"}
    names = {"first": "10.0.0.9", "me": "127.0.1.1", "localhost": "127.0.0.1"}

    class Probe:
        def __init__(self, *_: object) -> None:
            self.own = ""

        def __enter__(self) -> "Probe":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def connect(self, address: tuple[str, int]) -> None:
            if address[0] not in routes:
                raise OSError("no route")
            self.own = routes[address[0]]

        def getsockname(self) -> tuple[str, int]:
            return self.own, 0

    def resolve(name: str, port: int, **_: object) -> list:
        if name.isalpha() and name not in names:
            raise socket.gaierror("unknown")
        return [(socket.AF_INET, socket.SOCK_DGRAM, 0, "", (names.get(name, name), port))]

    addresses: dict[str, list] = {}
    for address, interface in OWN.items():
        addresses.setdefault(interface, []).append(SimpleNamespace(address=address))
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: addresses)
    monkeypatch.setattr(environment.socket, "getaddrinfo", resolve)
    monkeypatch.setattr(environment.socket, "socket", Probe)
    return routes


@pytest.mark.parametrize(
    ("address", "interface"),
    [("10.0.0.9", "ib0"), ("first", "ib0"), ("10.0.0.5", "ib0"), ("127.0.0.1", "lo"), ("localhost", "lo"),
     ("unknown", None), ("172.16.0.1", None)],
)  # fmt: skip
def test_the_interface_is_that_of_the_route(host, address, interface):
    assert interface_towards(address) == interface


def test_a_name_that_is_loopback_here_alone_means_the_default_route(host):
    assert interface_towards("me") == "lo"  # no network at all
    host["192.0.2.1"] = "192.168.1.5"
    assert interface_towards("me") == "eth0"
    assert interface_towards("127.0.0.1") == interface_towards("localhost") == "lo"


def test_this_machine_reaches_itself_through_an_interface_that_it_has():
    assert interface_towards("127.0.0.1") in psutil.net_if_addrs()


def test_an_interface_that_the_user_names_is_kept(host, monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.9")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "mine")
    set_gloo_interface()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "mine"
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    set_gloo_interface()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "ib0"


def test_a_rank_that_sees_one_gpu_takes_it():
    assert [choose_gpu(rank, 8) for rank in (0, 7)] == [0, 7]
    assert choose_gpu(5, 1) == 0
    with pytest.raises(ValueError, match="local rank 2 has no GPU: this process sees 2; start as many ranks"):
        choose_gpu(2, 2)


def test_the_gpu_is_set_in_every_variable_that_deepspeed_reads(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.delenv("OMPI_COMM_WORLD_LOCAL_RANK", raising=False)
    export_local_rank(0)
    assert os.environ["LOCAL_RANK"] == "0" and "OMPI_COMM_WORLD_LOCAL_RANK" not in os.environ
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_RANK", "3")
    export_local_rank(0)
    assert os.environ["OMPI_COMM_WORLD_LOCAL_RANK"] == "0"


def test_kernels_lie_in_a_folder_of_this_user_on_this_host(tmp_path, monkeypatch):
    monkeypatch.setattr(environment.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("TRITON_CACHE_DIR", "mine")
    set_triton_cache()
    assert os.environ["TRITON_CACHE_DIR"] == "mine"
    monkeypatch.delenv("TRITON_CACHE_DIR")
    set_triton_cache()
    folder = tmp_path / f"triton-{os.getuid()}"
    assert os.environ["TRITON_CACHE_DIR"] == str(folder) and folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_of_somebody_else_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(environment.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    (tmp_path / "other").mkdir()
    (tmp_path / f"triton-{os.getuid()}").symlink_to(tmp_path / "other")
    set_triton_cache()
    assert "TRITON_CACHE_DIR" not in os.environ
