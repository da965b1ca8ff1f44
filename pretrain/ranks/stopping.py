"""Requests to stop: signals, and a launcher that is gone. Answered here at once, acted on at the end of a step."""

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
# A launcher that gets a signal sends SIGTERM on to its ranks, which a signal to the whole group has reached already.
_ECHO_SECONDS = 2.0
_LOOK_SECONDS = 1.0  # between two looks at the launcher
# What starts the deepspeed launcher's two processes; whoever adopts an orphan (systemd, tini, ...) is called otherwise.
_STARTERS = re.compile(r"python|deepspeed|sshd|dropbear|slurm|sh$")
_ORPHAN_SECONDS = 600.0  # for the step and the save after which a rank without a launcher leaves


class StopReason(IntEnum):
    """Why a job stops before its end. Where ranks have several reasons, the largest is the job's."""

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
    """Whether a job was asked to stop, and a sentence part on what it has to finish first."""

    def __init__(self) -> None:
        self.reason = StopReason.NONE
        self.waits_for: Callable[[], str] = lambda: f"before the first step; now: {busy_with('starting')}"


class StopRequest(Stop):
    """Whether this process was asked to stop. Made in the main thread, before anything that takes long.

    SIGTERM, SIGINT, SIGUSR1 and SIGHUP are requests, SIGHUP not where it is ignored (nohup); a second SIGTERM or
    SIGINT, more than two seconds after the first, ends the process at once. So does, after ten minutes, that the
    launcher is gone. A thread does all this, so that it works while the main thread hangs in a collective or waits for
    data.

    Args:
        generations: how many ancestors are a launcher without which nobody would ever stop this process: none for a
            process started by hand, 2 for the deepspeed launcher, whose first process starts a second one on each host.
        say: prints the answer to the first request; None on ranks that leave that to another one.
    """

    def __init__(self, generations: int = 0, say: Callable[[str], None] | None = None) -> None:
        super().__init__()
        self._say = say
        self._first_end = float("inf")
        self._gone_since = float("inf")
        self._ancestors = _ancestors(generations)
        if generations > 1 and any(pid and not _STARTERS.search(_name(pid)) for pid in self._ancestors):
            self._ancestors = [0] * generations  # gone before it was looked for
        # Python's own handlers wait for the main thread; the bytes that announce them do not.
        reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        reader.settimeout(_LOOK_SECONDS)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in _SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda *_: None)
        threading.Thread(target=self._watch, args=(reader,), name="stop-request", daemon=True).start()

    def _watch(self, reader: socket.socket) -> None:
        while True:
            try:
                for number in reader.recv(64):
                    self._note(number)
            except TimeoutError:
                self._look_for_launcher()

    def _note(self, number: int) -> None:
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
            # Where nobody reads stderr, printing may hang: not in this thread, which a second signal needs.
            threading.Thread(target=self._answer, args=(self._say,), daemon=True).start()

    def _answer(self, say: Callable[[str], None]) -> None:
        say(f"{self.reason}: stopping {self.waits_for()} (a second SIGTERM or Ctrl-C ends it at once)")

    def _look_for_launcher(self) -> None:
        found = _ancestors(len(self._ancestors))
        if found == self._ancestors:
            return
        now = time.monotonic()
        self._request(StopReason.LAUNCHER_GONE)
        self._gone_since = min(self._gone_since, now)
        if len(found) == 2 and found[0] == self._ancestors[0]:
            # Ctrl-C ended the first process of the deepspeed launcher. The second kills its ranks 30 seconds after it,
            # whatever they are saving, and nobody waits for its exit code any more.
            with suppress(ProcessLookupError):
                os.kill(found[0], signal.SIGKILL)
        if now - self._gone_since > _ORPHAN_SECONDS:
            os._exit(1)


def ignore_stop_requests() -> None:
    """For a process that is leaving already: launchers end the other ranks as soon as the first one is gone."""
    signal.set_wakeup_fd(-1)
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _ancestors(generations: int) -> list[int]:
    """Process ids of the parent, its parent, ..."""
    pids: list[int] = []
    while len(pids) < generations:
        pids.append(_parent(pids[-1]) if pids else os.getppid())
    return pids


def _parent(pid: int) -> int:
    try:
        # The command, in brackets, may hold spaces and brackets itself.
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:  # gone, or a system without /proc
        return 0


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "gone"
