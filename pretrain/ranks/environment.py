"""What a rank's process takes from its host before it joins the others: network interface, GPU, folder for kernels."""

import os
import socket
import tempfile
from pathlib import Path

import psutil

_ELSEWHERE = "192.0.2.1"  # an address that no host has (RFC 5737); nothing is sent to it
_PORT = 9  # of a UDP socket that sends nothing
_LOOPBACK = ("127.", "::1")


def set_gloo_interface() -> None:
    """GLOO_SOCKET_IFNAME, unless set: the interface that reaches MASTER_ADDR.

    Gloo would take the address that this host's own name has, which is 127.0.1.1 on Debian and unreachable for others.
    """
    address = os.environ.get("MASTER_ADDR")
    if address and "GLOO_SOCKET_IFNAME" not in os.environ and (name := interface_towards(address)):
        os.environ["GLOO_SOCKET_IFNAME"] = name


def interface_towards(host: str) -> str | None:
    """The network interface by which packets to the host leave this one; None where that cannot be told.

    Where the host is this one, it is the interface that has its address. A name that means loopback here only because
    /etc/hosts says so ("127.0.1.1 myhost") may mean this host's real address to others: then the interface of the
    default route is taken. "localhost" and addresses like 127.0.0.1 are loopback.
    """
    own = _own_address_towards(host)
    is_named = not host.startswith(_LOOPBACK) and host != "localhost"
    if own and own.startswith(_LOOPBACK) and is_named:
        own = _own_address_towards(_ELSEWHERE) or own
    return _interface_of(own) if own else None


def _own_address_towards(host: str) -> str | None:
    """This host's address on the route to another, by connecting a UDP socket, which sends nothing."""
    try:
        found = socket.getaddrinfo(host, _PORT, type=socket.SOCK_DGRAM)
    except OSError:
        return None
    for family, kind, protocol, _, address in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.connect(address)
                return str(probe.getsockname()[0])
        except OSError:  # no route for this family
            continue
    return None


def _interface_of(address: str) -> str | None:
    if address.startswith("127."):
        address = "127.0.0.1"  # all of 127.0.0.0/8 is the loopback interface's
    for name, addresses in psutil.net_if_addrs().items():
        if any(one.address.split("%")[0] == address for one in addresses):
            return str(name)
    return None


def choose_gpu(local_rank: int, num_visible: int) -> int:
    """The index of this rank's GPU: its rank on the host, or 0 where its launcher shows it one GPU alone.

    ValueError where the host shows this process fewer GPUs than it has ranks.
    """
    if local_rank < num_visible:
        return local_rank
    if num_visible == 1:  # Slurm's --gpus-per-task, say
        return 0
    raise ValueError(
        f"local rank {local_rank} has no GPU: this process sees {num_visible}; start as many ranks on a host as it has "
        "GPUs, or check CUDA_VISIBLE_DEVICES"
    )


def export_local_rank(index: int) -> None:
    """Tell DeepSpeed the GPU's index: it takes LOCAL_RANK for it, and refuses one that Open MPI's contradicts."""
    for name in ("LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"):
        if name in os.environ:
            os.environ[name] = str(index)


def set_triton_cache() -> None:
    """TRITON_CACHE_DIR, unless set: a folder of this user on this host.

    By default compiled kernels lie in the home folder, which on a cluster all hosts share, and write to at once.
    """
    if "TRITON_CACHE_DIR" in os.environ:
        return
    folder = Path(tempfile.gettempdir()) / f"triton-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            return  # somebody else's: what lies there would be run
    except OSError:
        return
    os.environ["TRITON_CACHE_DIR"] = str(folder)
