"""Requests to stop, by a signal or because the launcher is gone: acknowledged at once, obeyed at the end of a step."""

import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from enum import IntEnum
from pathlib import Path

from pretrain.progress import busy_with

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
# A signal to a process group reaches a rank twice: directly, and as the SIGTERM that its launcher passes on.
_ECHO_SECONDS = 2.0
_POLL_SECONDS = 1.0  # between two checks of the launcher
# Names of processes that start the deepspeed launcher's two processes; those that adopt orphans (systemd, tini) differ.
_STARTERS = re.compile(r"python|deepspeed|sshd|dropbear|slurm|sh$")
_ORPHAN_SECONDS = 600.0  # a rank without a launcher has this long to finish its step and save


class Stopped(Exception):
    """A command was asked to stop, and has saved what is done: given again, it goes on from there."""


class StopReason(IntEnum):
    """Why a job stops before its end. If ranks have different reasons, the job's reason is the largest."""

    NONE = 0
    SIGHUP = signal.SIGHUP
    SIGINT = signal.SIGINT
    SIGUSR1 = signal.SIGUSR1
    SIGTERM = signal.SIGTERM
    SLOW_STEP = 1000
    LAUNCHER_GONE = 1001

    def __str__(self) -> str:
        sentences = {self.SLOW_STEP: "a step took far longer than usual", self.LAUNCHER_GONE: "the launcher is gone"}
        return sentences.get(self, self.name)


class Stop:
    """Whether a job was asked to stop, and in words what it has to finish first."""

    def __init__(self) -> None:
        self.reason = StopReason.NONE
        self.waits_for: Callable[[], str] = lambda: f"before the first step; now: {busy_with('starting')}"


class StopRequest(Stop):
    """Records whether this process was asked to stop. Create it in the main thread, before anything that takes long.

    SIGTERM, SIGINT, SIGUSR1 and SIGHUP (unless ignored, as by nohup) are requests. A second SIGTERM or SIGINT, more
    than two seconds after the first, ends the process at once; so do ten minutes without the launcher. A thread watches
    for all this, so that it works while the main thread hangs in a collective or waits for data.

    Args:
        generations: how many ancestors belong to the launcher, without which nothing would ever stop this process: 0
            for a process started by hand, 2 for the deepspeed launcher, whose first process starts one on each host.
        say: prints the answer to the first request; None on ranks that print none.
    """

    def __init__(self, generations: int = 0, say: Callable[[str], None] | None = None) -> None:
        super().__init__()
        self._say = say
        self._first_end = float("inf")
        self._gone_since = float("inf")
        self._ancestors = _ancestors(generations)
        if generations > 1 and any(pid and not _STARTERS.search(_name(pid)) for pid in self._ancestors):
            self._ancestors = [0] * generations  # the launcher was gone before this line
        # Python's own handlers wait for the main thread; the bytes of the wakeup descriptor do not.
        reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        reader.settimeout(_POLL_SECONDS)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in _SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda *_: None)
        threading.Thread(target=self._watch, args=(reader,), name="stop-request", daemon=True).start()

    def _watch(self, reader: socket.socket) -> None:
        while True:
            try:
                for number in reader.recv(64):
                    self._handle(number)
            except TimeoutError:
                self._check_launcher()

    def _handle(self, number: int) -> None:
        now = time.monotonic()
        if number in (signal.SIGTERM, signal.SIGINT):
            if now - self._first_end > _ECHO_SECONDS:
                os._exit(128 + number)
            self._first_end = min(self._first_end, now)
        self._request(StopReason(number))

    def _request(self, reason: StopReason) -> None:
        if self.reason:
            return
        self.reason = reason
        if self._say:
            # Printing may hang if nobody reads stderr, so do it in another thread: this one waits for a second signal.
            threading.Thread(target=self._answer, args=(self._say,), daemon=True).start()

    def _answer(self, say: Callable[[str], None]) -> None:
        say(f"{self.reason}: stopping {self.waits_for()} (a second SIGTERM or Ctrl-C stops at once)")

    def _check_launcher(self) -> None:
        found = _ancestors(len(self._ancestors))
        if found == self._ancestors:
            return
        now = time.monotonic()
        self._request(StopReason.LAUNCHER_GONE)
        self._gone_since = min(self._gone_since, now)
        if len(found) == 2 and found[0] == self._ancestors[0]:
            # Ctrl-C ended the first process of the deepspeed launcher. The second would kill its ranks 30 seconds
            # later, even while they save, and nothing waits for its exit code any more: end it instead.
            with suppress(ProcessLookupError):
                os.kill(found[0], signal.SIGKILL)
        if now - self._gone_since > _ORPHAN_SECONDS:
            os._exit(1)


def ignore_stop_requests() -> None:
    """Ignore further signals while exiting: launchers signal the other ranks as soon as the first one has exited."""
    signal.set_wakeup_fd(-1)
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _ancestors(generations: int) -> list[int]:
    """Return the process ids of the parent, its parent, and so on."""
    pids: list[int] = []
    while len(pids) < generations:
        pids.append(_parent(pids[-1]) if pids else os.getppid())
    return pids


def _parent(pid: int) -> int:
    try:
        # The command, in brackets, may itself contain spaces and brackets.
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:  # gone, or a system without /proc
        return 0


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "gone"
