"""The host and port where ranks meet: what no restart can mend is refused, before or instead of waiting for others."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch.distributed as dist

from pretrain.progress import say

_NAME_SECONDS = 60.0  # for the name of rank 0's host to appear: a pod's does some seconds after its start
_RETRY_SECONDS = 1.0
_GIVE = "--master_port PORT of deepspeed, or MASTER_PORT"
_INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
_IP = (socket.AF_INET, socket.AF_INET6)


def prepare_meeting() -> None:
    """Set or check the environment by which this process joins the others, unless it has joined already."""
    if "RANK" in os.environ and dist.is_initialized():
        return
    if "RANK" in os.environ and meets_others():
        wait_for_address()
    else:
        meet_nobody()
    check_interfaces()


def meets_others() -> bool:
    """Whether a launched process joins at the launcher's port: there are other ranks, or torchrun's own store."""
    return os.environ.get("WORLD_SIZE") != "1" or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def meet_nobody() -> None:
    """Set the environment of a process that is the only rank: it meets nobody, at a free port of this host."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    os.environ.update(RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    os.environ.setdefault("LOCAL_RANK", "0")


def check_interfaces() -> None:
    """Raise ValueError if a variable names a network interface that this host lacks or that has no address."""
    found = {
        name
        for name, addresses in psutil.net_if_addrs().items()
        if any(one.family in _IP for one in addresses)
    }  # fmt: skip
    for variable in _INTERFACES:
        wanted = os.environ.get(variable, "")
        if not wanted or wanted.startswith("^"):  # NCCL: all but these
            continue
        is_exact = variable.startswith("GLOO") or wanted.startswith("=")  # NCCL: names that begin so
        names = wanted.removeprefix("=").split(",")
        there = [name for name in names if (name in found if is_exact else any(one.startswith(name) for one in found))]
        if not there or (variable.startswith("GLOO") and len(there) < len(names)):
            raise ValueError(
                f"{variable}={wanted}: {socket.gethostname()} has no such network interface with an address; it has "
                f"{', '.join(sorted(found))}"
            )


def wait_for_address(seconds: float = _NAME_SECONDS) -> None:
    """Wait until this host knows MASTER_ADDR. On rank 0, whose address it is, raise ValueError if it never does.

    Other ranks go on and lose their connection: their host's name service, or rank 0's host, may come back.
    """
    address, rank, end = os.environ["MASTER_ADDR"], os.environ["RANK"], time.monotonic() + seconds
    has_said = False
    while True:
        try:
            socket.getaddrinfo(address, None)
            return
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
        if time.monotonic() > end:
            break
        if not has_said:
            say(f"[rank {rank}] MASTER_ADDR={address} is not known on {socket.gethostname()} yet ({reason}); waiting")
            has_said = True
        time.sleep(min(_RETRY_SECONDS, seconds))
    if rank == "0":
        raise ValueError(
            f"MASTER_ADDR={address}: {socket.gethostname()} does not know this host ({reason}); give the name or "
            "address of rank 0's host that every host knows: --master_addr HOST of deepspeed, or MASTER_ADDR"
        )


@contextmanager
def explain_refused_port() -> Iterator[None]:
    """Raise ValueError in place of torch's error where rank 0 cannot listen at MASTER_PORT."""
    try:
        yield
    except dist.DistNetworkError as error:
        place = f"port {os.environ.get('MASTER_PORT')} of {socket.gethostname()}, where the ranks meet,"
        reason = str(error).lower()  # with a name of errno or without, by the kind of store
        if "address already in use" in reason:
            raise ValueError(f"{place} is in use, probably by another run; give another: {_GIVE}") from error
        if "permission denied" in reason:
            raise ValueError(f"{place} is not permitted; give one above 1023: {_GIVE}") from error
        raise
