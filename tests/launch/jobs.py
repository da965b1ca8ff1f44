"""The main job as something to disturb: started by a real launcher, watched through its run folder."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.processes import Script, die_with_parent, free_port

ROOT = Path(__file__).parents[2]
POLL_SECONDS = 0.01
_LINE_BYTES = 10_000  # more than a line of metrics has
SAVE_EVERY_STEPS = 20  # of the runs that are disturbed


def deepspeed_command(num_ranks: int = 2) -> list[str]:
    """`deepspeed launch/gd.py` on this host."""
    port = str(free_port())
    return [sys.executable, "-m", "deepspeed.launcher.runner", "--num_gpus", str(num_ranks),
            "--master_port", port, "-q", "launch/gd.py"]  # fmt: skip


class Job:
    """One launch in a session of its own; what it says goes to a file. Leaves no process behind.

    Args:
        launcher: the command; none for one rank without a launcher, forked from a process that has imported already.
    """

    def __init__(
        self,
        launcher: Sequence[str] | None,
        config: Path,
        run: Path,
        *more: str,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.started = time.time()
        self.run, self.log = run, run.with_name(f"{run.name}.{time.monotonic_ns()}.log")
        arguments, environment = ["--config", str(config), "--run", str(run), *more], environment or {}
        self.process: Script | subprocess.Popen[bytes]
        if launcher is None:
            self.process = Script("launch/gd.py", arguments, self.log, self.log, environment)
            return
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*launcher, *arguments],
                cwd=ROOT,
                env=os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"} | environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,  # where a time limit ends the tests, nothing goes on for ever
            )

    def __enter__(self) -> "Job":
        return self

    def __exit__(self, *_: object) -> None:
        for pid in [*self.pids(), self.process.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(60)

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def pids(self) -> list[int]:
        """Every process of this launch: those that name the run folder."""
        return [pid for pid, command in _commands() if str(self.run).encode() in command.split(b"\0")]

    def ranks(self) -> list[int]:
        """The ranks' processes, by rank."""
        found = {}
        for pid, command in _commands():
            words = command.split(b"\0")
            if str(self.run).encode() in words and b"launch/gd.py" in words[1:3]:
                with suppress(OSError):
                    found[_rank(pid)] = pid
        return [found[rank] for rank in sorted(found)]

    def until(self, condition: Callable[[], object], seconds: float = 120) -> None:
        """Waits for it; fails with what the job said if it ends before or takes longer."""
        end = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None or condition(), self.said
            assert time.monotonic() < end, self.said
            time.sleep(POLL_SECONDS)

    def logs(self) -> bool:
        """Whether metrics.jsonl is this launch's already: what a checkpoint does not cover is dropped from it."""
        path = self.run / "metrics.jsonl"
        return path.is_file() and path.stat().st_mtime > self.started

    def until_step(self, step: int) -> None:
        self.until(lambda: self.logs() and logged_step(self.run) >= step)

    def until_gone(self, seconds: float = 60) -> float:
        """Waits until no process of the launch is left; seconds it took."""
        start = time.monotonic()
        while self.pids():
            assert time.monotonic() < start + seconds, f"still there: {self.pids()}\n{self.said}"
            self.process.poll()  # no zombie counts
            time.sleep(0.05)
        return time.monotonic() - start

    def wait(self, seconds: float = 240) -> int:
        code = self.process.wait(seconds)
        self.until_gone()
        return code


def logged_step(run: Path) -> int:
    """The last step in metrics.jsonl, 0 before there is one."""
    try:
        with (run / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LINE_BYTES))
            whole_lines = file.read().split(b"\n")[:-1]
        return int(json.loads(whole_lines[-1])["step"])
    except (FileNotFoundError, IndexError):
        return 0


def newest_step(run: Path) -> int:
    """The step of the newest checkpoint, 0 before there is one."""
    return max((int(path.name.removeprefix("step_")) for path in run.glob("checkpoints/step_*")), default=0)


def _commands() -> list[tuple[int, bytes]]:
    commands = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            commands.append((int(folder.name), (folder / "cmdline").read_bytes()))
    return commands


def _rank(pid: int) -> int:
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next(int(entry[5:]) for entry in environment if entry.startswith(b"RANK="))


def final_tensors(run: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the last checkpoint that lies in a safetensors file."""
    folder = run / "checkpoints" / f"step_{newest_step(run)}"
    return {
        f"{path.relative_to(folder)} {name}": tensor
        for path in sorted(folder.rglob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def assert_same_end(run: Path, undisturbed: Path) -> None:
    """Both are done, at one step, with the same bits."""
    steps = [json.loads((folder / "done.json").read_text())["step"] for folder in (run, undisturbed)]
    assert steps == [newest_step(run)] * 2
    ours, theirs = final_tensors(run), final_tensors(undisturbed)
    assert ours.keys() == theirs.keys() and len(ours) > 50
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
