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

# CPU groups time out first: a device's group ends the process without our message.
_DEVICE_EXTRA_SECONDS = 60
_BEAT_SECONDS = 1.0
_MAIN_THREAD_SECONDS = 6.0  # for the main thread to report the same error and exit
_LOADING_SECONDS = 1800  # ranks wait while rank 0 projects a large teacher's layers; the heartbeat goes on
_MAX_REASON_LENGTH = 600  # characters


class PeerLost(Exception):
    """Another rank died or stopped answering, so this one cannot continue."""


@contextmanager
def joined_ranks(timeout_seconds: int, on_lost: Callable[[PeerLost], None]) -> Iterator[torch.device]:
    """Join all ranks of the job, watch that they answer, and leave together. Yield this rank's device.

    Raise PeerLost in place of the errors of libraries when another rank is lost. While the main thread waits for a
    device, where nothing can be raised, `on_lost` is called in another thread instead.
    """
    with explain_lost_peers(timeout_seconds):
        device, heartbeat = join_ranks(timeout_seconds, on_lost)
        yield device
        if dist.get_world_size() > 1:
            # Launchers kill the remaining ranks when the first one exits, so wait until all have finished.
            ignore_stop_requests()
            gather_objects(None)
        heartbeat.close()


@Progress("joining the other ranks")
def join_ranks(timeout_seconds: int, on_lost: Callable[[PeerLost], None]) -> tuple[torch.device, "Heartbeat"]:
    """Create the process group and its heartbeat, before anything that can fail on a single rank.

    A device's group waits forever for a rank that is lost while it starts, so a timer limits that too.
    """
    seconds = timeout_seconds + _DEVICE_EXTRA_SECONDS
    message = (
        f"the ranks did not join within {seconds} s: one of them is lost, cut off, was refused or has no working device"
    )
    timer = threading.Timer(seconds, on_lost, [PeerLost(message)])
    timer.daemon = True
    timer.start()
    try:
        device = start_distributed(timeout_seconds)
        raise_together(None)  # creates the group that such exchanges use
    finally:
        timer.cancel()
    limit_collectives(max(timeout_seconds, _LOADING_SECONDS))
    return device, Heartbeat(timeout_seconds, on_lost)


class Agreement:
    """The maximum over all ranks of some integers, available on every rank one step later.

    Runs on the CPU in a separate process group, so that a step waits neither for the device nor for the network. Every
    rank reads the same numbers at the same step, so all of them decide alike.
    """

    def __init__(self, timeout_seconds: int) -> None:
        timeout = timedelta(seconds=timeout_seconds)
        self._group = dist.new_group(backend="gloo", timeout=timeout) if dist.get_world_size() > 1 else None
        self._pending: tuple[Tensor, dist.Work | None] | None = None

    def exchange(self, values: Sequence[int]) -> list[int]:
        """Send `values`; return the maxima of the previous call's values, zeros at the first call."""
        previous = self.settle() or [0] * len(values)
        maxima = torch.tensor(values, dtype=torch.int64)
        work = dist.all_reduce(maxima, dist.ReduceOp.MAX, self._group, async_op=True) if self._group else None
        self._pending = maxima, work
        return previous

    def settle(self) -> list[int]:
        """Wait for the maxima of the last call and return them; an empty list if none are pending."""
        if self._pending is None:
            return []
        (maxima, work), self._pending = self._pending, None
        if work:
            work.wait()
        return maxima.tolist()


class Heartbeat:
    """Check once a second that all ranks answer, in a separate thread and process group.

    Needed because a main thread that waits for its device, which waits for a lost rank, cannot be interrupted.

    Args:
        on_lost: called in that thread when a rank is lost, unless the main thread ends the process first.
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
                while self._any_rank_runs():
                    pass
        except PeerLost as error:
            self._leaving.wait(_MAIN_THREAD_SECONDS)
            self._on_lost(error)

    def _any_rank_runs(self) -> bool:
        running = torch.tensor([not self._leaving.wait(_BEAT_SECONDS)], dtype=torch.int32)
        dist.all_reduce(running, dist.ReduceOp.MAX, self._group)
        return bool(running)

    def close(self) -> None:
        """Stop as soon as every rank has called this."""
        self._leaving.set()
        self._thread.join()


def limit_collectives(timeout_seconds: int) -> None:
    """Set the timeout of every process group, including those that DeepSpeed created with 30 minutes."""
    for group in list(distributed_c10d._world.pg_map):
        extra_seconds = 0 if dist.get_backend(group) == "gloo" else _DEVICE_EXTRA_SECONDS
        distributed_c10d._set_pg_timeout(timedelta(seconds=timeout_seconds + extra_seconds), group)


@contextmanager
def explain_lost_peers(timeout_seconds: int) -> Iterator[None]:
    """Raise PeerLost, with a message for the user, in place of the errors that libraries raise in a collective."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if not isinstance(error, dist.DistError) and "gloo" not in text:
            raise
        reason = " ".join(text.split())[:_MAX_REASON_LENGTH]
        if "timed out" in text.lower() or "timeout" in text.lower():
            raise PeerLost(
                f"other ranks did not answer within {timeout_seconds} s (training.collective_timeout_seconds): "
                f"a host is lost, cut off or hangs ({reason})"
            ) from error
        cause = "its process or host is gone, or the network failed"
        raise PeerLost(f"the connection to another rank broke: {cause} ({reason})") from error
