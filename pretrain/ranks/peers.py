"""Messages between ranks besides gradients, and detection of ranks that stop answering."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import distributed_c10d

from pretrain.progress import Progress
from pretrain.ranks.process_group import start_distributed
from pretrain.ranks.stopping import ignore_stop_requests
from pretrain.ranks.together import gather_objects, raise_together

# The agreement is to notice a missing rank first: a group of the device ends the process without a word of ours.
_DEVICE_GRACE_SECONDS = 60
_BEAT_SECONDS = 1.0
_OTHER_WORDS_SECONDS = 6.0  # for the main thread to say the same and leave
_LOADING_SECONDS = 1800  # others wait for rank 0, which projects a large teacher's layers; the heartbeat goes on
_MOST_REASON = 600  # characters


class PeerLost(Exception):
    """Another rank died, or does not answer any more; this one cannot go on."""


@contextmanager
def joined_ranks(timeout_seconds: int, on_lost: Callable[[PeerLost], None]) -> Iterator[torch.device]:
    """Join all ranks of the job, watch that they answer, and leave together; gives this rank's device.

    Raises PeerLost in place of what libraries raise when another rank is lost. While the main thread waits for a
    device, where nothing can be raised, `on_lost` is called in another thread.
    """
    with explain_lost_peers(timeout_seconds):
        device, heartbeat = join_ranks(timeout_seconds, on_lost)
        yield device
        if dist.get_world_size() > 1:
            # Launchers end the other ranks when the first one leaves, so all are done before any does.
            ignore_stop_requests()
            gather_objects(None)
        heartbeat.close()


@Progress("joining the other ranks")
def join_ranks(timeout_seconds: int, on_lost: Callable[[PeerLost], None]) -> tuple[torch.device, "Heartbeat"]:
    """Create the process group, and its heartbeat before anything that can fail on one rank alone.

    A device's group waits for ever for a rank that is lost while it starts, so that is timed too.
    """
    seconds = timeout_seconds + _DEVICE_GRACE_SECONDS
    message = f"the ranks were not joined within {seconds} s: one of them is lost, cut off or has no working device"
    timer = threading.Timer(seconds, on_lost, [PeerLost(message)])
    timer.daemon = True
    timer.start()
    try:
        device = start_distributed(timeout_seconds)
        raise_together(None)  # makes the group that it goes by
    finally:
        timer.cancel()
    limit_collectives(max(timeout_seconds, _LOADING_SECONDS))
    return device, Heartbeat(timeout_seconds, on_lost)


class Agreement:
    """The maximum over all ranks of some integers, known to all of them one step later.

    On the CPU and in a separate process group, so that neither the device nor the network is waited for. Every rank
    reads the same numbers at the same step, so all of them act alike.
    """

    def __init__(self, timeout_seconds: int) -> None:
        timeout = timedelta(seconds=timeout_seconds)
        self._group = dist.new_group(backend="gloo", timeout=timeout) if dist.get_world_size() > 1 else None
        self._pending: tuple[Tensor, dist.Work | None] | None = None

    def exchange(self, values: Sequence[int]) -> list[int]:
        """Send `values`; return the maxima of the previous call's, zeros at the first call."""
        agreed = self.settle() or [0] * len(values)
        said = torch.tensor(values, dtype=torch.int64)
        work = dist.all_reduce(said, dist.ReduceOp.MAX, self._group, async_op=True) if self._group else None
        self._pending = said, work
        return agreed

    def settle(self) -> list[int]:
        """Wait for the maxima of the last call; an empty list if there are none."""
        if self._pending is None:
            return []
        (said, work), self._pending = self._pending, None
        if work:
            work.wait()
        return said.tolist()


class Heartbeat:
    """Checks once a second that all ranks answer, in a separate thread and process group.

    A main thread that waits for its device, which waits for a lost rank, can neither notice that nor be woken.

    Args:
        on_lost: called in the thread for a lost rank, unless the main thread has ended the process by then.
    """

    def __init__(self, timeout_seconds: int, on_lost: Callable[[PeerLost], None]) -> None:
        self._timeout_seconds, self._on_lost = timeout_seconds, on_lost
        self._leaving = threading.Event()
        self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_seconds))
        self._thread = threading.Thread(target=self._watch, name="heartbeat", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        try:
            with explain_lost_peers(self._timeout_seconds):
                while self._anybody_stays():
                    pass
        except PeerLost as error:
            self._leaving.wait(_OTHER_WORDS_SECONDS)
            self._on_lost(error)

    def _anybody_stays(self) -> bool:
        staying = torch.tensor([not self._leaving.wait(_BEAT_SECONDS)], dtype=torch.int32)
        dist.all_reduce(staying, dist.ReduceOp.MAX, self._group)
        return bool(staying)

    def close(self) -> None:
        """Stop once every rank has called this."""
        self._leaving.set()
        self._thread.join()


def limit_collectives(timeout_seconds: int) -> None:
    """Set this timeout for every process group, also for those that DeepSpeed created with 30 minutes."""
    for group in list(distributed_c10d._world.pg_map):
        grace = 0 if dist.get_backend(group) == "gloo" else _DEVICE_GRACE_SECONDS
        distributed_c10d._set_pg_timeout(timedelta(seconds=timeout_seconds + grace), group)


@contextmanager
def explain_lost_peers(timeout_seconds: int) -> Iterator[None]:
    """Raise PeerLost, with a message for the user, in place of what libraries raise in a collective."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if not isinstance(error, dist.DistError) and "gloo" not in text:
            raise
        reason = " ".join(text.split())[:_MOST_REASON]
        if "timed out" in text.lower() or "timeout" in text.lower():
            raise PeerLost(
                f"other ranks did not answer within {timeout_seconds} s (training.collective_timeout_seconds): "
                f"a host is lost, cut off or hangs ({reason})"
            ) from error
        gone = "its process or host is gone, or what joins them failed"
        raise PeerLost(f"the connection to another rank broke: {gone} ({reason})") from error
