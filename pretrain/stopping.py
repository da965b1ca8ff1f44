"""Requests to stop: signals, and a launcher that is gone. Noted here at once, heeded by the trainer at a step's end."""

import os
import re
import signal
import socket
import threading
import time
from pathlib import Path

LAUNCHER_GONE = int(signal.SIGHUP)  # stands for it among the numbers of signals; the signal itself is left alone
SLOW_STEP = 1000  # no signal either
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
# A launcher that gets a signal sends SIGTERM on to its ranks, which a signal to the whole group has reached already.
_ECHO_SECONDS = 2.0
_LOOK_SECONDS = 1.0  # between two looks at the launcher
# What starts the deepspeed launcher's two processes; whoever adopts an orphan (systemd, tini, ...) is called otherwise.
_STARTERS = re.compile(r"python|deepspeed|sshd|dropbear|slurm|sh$")
_ORPHAN_SECONDS = 600.0  # for the step and the save after which a rank without a launcher leaves


class StopRequest:
    """Whether this process was asked to stop. Made in the main thread, before anything that takes long.

    SIGTERM, SIGINT and SIGUSR1 are noted; a second SIGTERM or SIGINT, more than two seconds after the first, ends the
    process at once. So does, after ten minutes, that the launcher is gone. A thread sees to all this, so that it holds
    while the main thread hangs in a collective or waits for data.

    Args:
        generations: how many ancestors are a launcher without which nobody would ever stop this process: none for a
            process started by hand, 2 for the deepspeed launcher, whose first process starts a second one on each host.
    """

    def __init__(self, generations: int = 0) -> None:
        self.number = 0  # of the first signal that came, or LAUNCHER_GONE
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
        self.number = self.number or number

    def _look_for_launcher(self) -> None:
        if _ancestors(len(self._ancestors)) == self._ancestors:
            return
        now = time.monotonic()
        self.number = self.number or LAUNCHER_GONE
        self._gone_since = min(self._gone_since, now)
        if now - self._gone_since > _ORPHAN_SECONDS:
            os._exit(128 + LAUNCHER_GONE)


def ignore_stop_requests() -> None:
    """For a process that is leaving already: launchers end the other ranks as soon as the first one is gone."""
    signal.set_wakeup_fd(-1)
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def explain_stop(number: int) -> str:
    """What the number of a StopRequest, or SLOW_STEP, means."""
    named = {LAUNCHER_GONE: "the launcher is gone", SLOW_STEP: "a step took far longer than usual"}
    return named.get(number) or signal.Signals(number).name


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
