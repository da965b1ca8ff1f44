"""Environment variables that a rank sets before it joins the others: network interface, GPU, kernel cache."""

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

_ELSEWHERE = "192.0.2.1"  # an address that no host has (RFC 5737); nothing is sent to it
_PORT = 9  # of a UDP socket that sends nothing
_LOOPBACK = ("127.", "::1")


def set_gloo_interface() -> None:
    """Set GLOO_SOCKET_IFNAME, unless it is set, to the network interface that reaches MASTER_ADDR.

    By default gloo uses the address of this host's name, which on Debian is 127.0.1.1, unreachable for other hosts.
    """
    address = os.environ.get("MASTER_ADDR")
    if address and "GLOO_SOCKET_IFNAME" not in os.environ and (name := interface_towards(address)):
        os.environ["GLOO_SOCKET_IFNAME"] = name


def interface_towards(host: str) -> str | None:
    """Return the network interface that sends packets to `host`, or None if it cannot be determined.

    If `host` is this host, return the interface that has its address. A name that is loopback here only because of
    /etc/hosts ("127.0.1.1 myhost") may be a real address for other hosts: then return the interface of the default
    route. "localhost" and addresses like 127.0.0.1 are loopback.
    """
    own = _own_address_towards(host)
    is_named = not host.startswith(_LOOPBACK) and host != "localhost"
    if own and own.startswith(_LOOPBACK) and is_named:
        own = _own_address_towards(_ELSEWHERE) or own
    return _interface_of(own) if own else None


def _own_address_towards(host: str) -> str | None:
    """Return this host's address on the route to another, by connecting a UDP socket, which sends nothing."""
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
        address = "127.0.0.1"  # all of 127.0.0.0/8 belongs to the loopback interface
    for name, addresses in psutil.net_if_addrs().items():
        if any(one.address.split("%")[0] == address for one in addresses):
            return str(name)
    return None


def choose_gpu(local_rank: int, num_visible: int) -> int:
    """Return the index of this rank's GPU: its rank on the host, or 0 if the launcher gives each rank a single GPU.

    Raise ValueError if this process sees fewer GPUs than its host has ranks.
    """
    if local_rank < num_visible:
        return local_rank
    if num_visible == 1:  # Slurm's --gpus-per-task, say
        return 0
    raise ValueError(
        f"local rank {local_rank} has no GPU: this process sees {num_visible}; start as many ranks per host as it has "
        "GPUs, or check CUDA_VISIBLE_DEVICES"
    )


@contextmanager
def explain_lost_device(index: int) -> Iterator[None]:
    """Raise ValueError, naming host and GPU, in place of the error of a driver that cannot use the GPU."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"GPU {index} of {socket.gethostname()} cannot be used: {reason}; see nvidia-smi, or leave it out with "
            "CUDA_VISIBLE_DEVICES"
        ) from error


def export_local_rank(index: int) -> None:
    """Set LOCAL_RANK, which DeepSpeed takes for the GPU's index, and Open MPI's variable, which must agree with it."""
    for name in ("LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"):
        if name in os.environ:
            os.environ[name] = str(index)


def set_triton_cache() -> None:
    """Set TRITON_CACHE_DIR, unless it is set, to a folder of this user on this host.

    The default is in the home folder, which all hosts of a cluster share and would write to at the same time.
    """
    if "TRITON_CACHE_DIR" in os.environ:
        return
    folder = Path(tempfile.gettempdir()) / f"triton-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            return  # another user's folder: its contents would be executed
    except OSError:
        return
    os.environ["TRITON_CACHE_DIR"] = str(folder)
