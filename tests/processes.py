"""Processes forked from one that has imported torch, transformers and DeepSpeed already: each starts in no time.

For tests of what a process does, where it does not matter how it was started.
"""

import ctypes
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
IMPORTS = (
    "deepspeed.module_inject",
    "torch._inductor.compile_fx",  # ZeRO's
    "transformers.models.bert.modeling_bert",
    "launch.distillation.training",
    "launch.stages.chain",
    "launch.evaluate_tasks",
    "tests.pretrain.tiny",
)
_OF_A_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_PR_SET_PDEATHSIG = 1

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(list(IMPORTS))


def die_with_parent() -> None:
    """SIGKILL for this process when the one that started it ends, however that ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Script:
    """`python SCRIPT ARGUMENTS` in the repository's root; used as a subprocess.Popen is.

    Args:
        stdout, stderr: files that what it says is added to; they may be the same one.
        environment: variables to set beside those of this process, without those that a launcher sets.
    """

    def __init__(
        self,
        script: str,
        arguments: Sequence[str],
        stdout: Path,
        stderr: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        # What tests in this process told torch.distributed is not for another process.
        mine = {name: value for name, value in os.environ.items() if name not in _OF_A_LAUNCHER}
        self.args, self._files = [script, *arguments], (stdout, stderr)
        self._process = CONTEXT.Process(target=_run, args=(self.args, stdout, stderr, mine | dict(environment or {})))
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float = 240) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float = 240) -> tuple[str, str]:
        self.wait(timeout)
        stdout, stderr = (file.read_text(errors="replace") for file in self._files)
        return stdout, stderr


def _run(argv: list[str], stdout: Path, stderr: Path, environment: dict[str, str]) -> None:
    die_with_parent()
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    for file, number in ((stdout, 1), (stderr, 2)):
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    sys.argv = argv
    sys.path[:0] = [str(ROOT / Path(argv[0]).parent), *filter(None, environment.get("PYTHONPATH", "").split(":"))]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    runpy.run_path(argv[0], run_name="__main__")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def places_of(num_ranks: int) -> list[dict[str, str]]:
    """What a launcher tells each rank of a host, in its environment."""
    world = {"WORLD_SIZE": str(num_ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [world | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(num_ranks)]


def run_script(
    script: str, *arguments: str, num_ranks: int = 0, timeout: float = 240, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A script run to its end; with `num_ranks` a process a rank, as a launcher of one host starts them.

    The exit code is the first that is not 0; what they say stands together, rank by rank.
    """
    with tempfile.TemporaryDirectory() as folder:
        places, ranks = places_of(num_ranks) if num_ranks else [{}], []
        for rank, place in enumerate(places):
            files = Path(folder, f"stdout_{rank}"), Path(folder, f"stderr_{rank}")
            ranks.append(Script(script, arguments, *files, place | dict(environment or {})))
        end = time.monotonic() + timeout
        try:
            said = [rank.communicate(max(0.0, end - time.monotonic())) for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
        code = next((rank.returncode for rank in ranks if rank.returncode), 0)
        return subprocess.CompletedProcess(
            ranks[0].args, code, "".join(s[0] for s in said), "".join(s[1] for s in said)
        )
