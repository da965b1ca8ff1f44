"""Metrics of a run, written as JSON lines and to TensorBoard, and its progress line.

On a terminal progress is a bar; otherwise a line for every logged step, and one after a minute without any.
"""

import errno
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import orjson
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from pretrain.durable import write_durably
from pretrain.progress import FIRST_SECONDS, LINE_SECONDS, Heartbeat, duration, say

_NOT_LOSSES = ("learning_rate", "grad_norm", "skipped_", "probe/")  # prefixes of a student's other metrics


class Metrics:
    """Writes metrics.jsonl, tensorboard/ and the progress line of one run; only on rank 0.

    A run that resumes removes the lines after its checkpoint, so that no step is logged twice. Losses are means since
    the line before, or since the run resumed.

    Args:
        run: the run folder.
        step: the step to continue from.
    """

    def __init__(
        self,
        run: Path,
        total_steps: int,
        step: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        run.mkdir(parents=True, exist_ok=True)
        self.path = run / "metrics.jsonl"
        # There are none if the run was killed between its first checkpoint and its first line
        logged = _read_records(self.path) if self.path.is_file() and step else []
        kept = [line for line in logged if line["step"] <= step]
        write_durably(self.path, b"".join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in kept))
        self._file = self.path.open("ab", buffering=0)
        self._waiting: list[bytes] = []  # lines that could not be written yet
        self._tensorboard: SummaryWriter | None = SummaryWriter(run / "tensorboard", purge_step=step + 1)
        self._show_configuration(run / "config.json", step)
        self._total_steps = total_steps
        self._bar = tqdm(
            total=total_steps,
            initial=step,
            unit=" steps",
            mininterval=1.0,
            file=sys.stderr,
            dynamic_ncols=True,
            disable=None,  # means: without a terminal
        )
        self._pace = Pace(total_steps, step, clock)
        self._heartbeat = Heartbeat(lambda: say(self._pace.line()), clock)

    def advance(self, num_tokens: int) -> None:
        """Count one step of so many real tokens as done; reads nothing from the device."""
        self._bar.update()
        if self._pace.advance(num_tokens):
            say(self._pace.line())
            self._heartbeat.postpone()
        if self._pace.is_first and self._bar.disable:
            self._heartbeat.postpone()
            self._heartbeat.start()

    def write(self, values: Mapping[str, float]) -> None:
        """Log one step: `step` and any other metrics, those of a student with its name as prefix ("name/loss")."""
        self._waiting.append(orjson.dumps(dict(values), option=orjson.OPT_APPEND_NEWLINE))
        self._write_waiting()
        step = int(values["step"])
        if self._tensorboard:
            try:
                for name, value in values.items():
                    if name != "step":
                        self._tensorboard.add_scalar(tensorboard_tag(name), value, step)
            except OSError as error:
                self._give_up_tensorboard(error)
        self._show(step, values)

    def _show_configuration(self, path: Path, step: int) -> None:
        """Give TensorBoard the run's configuration as text, at the step from which the run goes on."""
        if self._tensorboard and path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines()
            try:
                self._tensorboard.add_text("configuration", "".join(f"    {line}\n" for line in lines), step)
            except OSError as error:
                self._give_up_tensorboard(error)

    def _show(self, step: int, values: Mapping[str, float]) -> None:
        """Show the losses on the progress line or on a new line, and a probe's scores on a line above."""
        shown = {name: f"{value:.4f}" for name, value in values.items()}
        losses = [f"{name.removesuffix('/loss')} {text}" for name, text in shown.items() if name.endswith("/loss")]
        if not self._bar.disable:
            rate = f", {values['tokens_per_second']:,.0f} tokens/s" if "tokens_per_second" in values else ""
            self._bar.set_postfix_str(", ".join([f"step {step}", *losses]) + rate)
        elif losses:
            print(f"step {step} of {self._total_steps}: {', '.join(losses)}{self._rate(step, values)}", file=sys.stderr)
            self._heartbeat.postpone()
        if scores := [f"{name.replace('/probe/', ' ')} {text}" for name, text in shown.items() if "/probe/" in name]:
            tqdm.write(f"step {step}: {', '.join(scores)}", file=sys.stderr)

    def _rate(self, step: int, values: Mapping[str, float]) -> str:
        if not (rate := values.get("tokens_per_second")):
            return ""
        seconds = (self._total_steps - step) * self._pace.tokens_per_step / rate
        return f"; {rate:,.0f} tokens/s, {tqdm.format_interval(seconds)} left"

    def _write_waiting(self) -> None:
        """Append whole lines or nothing: a full disk may have room when the next step is logged."""
        data, end = b"".join(self._waiting), self._file.seek(0, os.SEEK_END)
        try:
            if self._file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._waiting.clear()
        except OSError as error:
            self._file.truncate(end)
            what = f"{self.path}: cannot be written: {error.strerror}; {len(self._waiting)} line(s) kept in memory"
            warnings.warn(what, stacklevel=3)

    def _give_up_tensorboard(self, error: OSError) -> None:
        warnings.warn(f"{self.path.parent / 'tensorboard'}: no more is written: {error.strerror}", stacklevel=3)
        self._tensorboard = None

    def close(self) -> None:
        """Flush everything."""
        self._heartbeat.stop()
        self._bar.close()
        if self._waiting:
            self._write_waiting()
        self._file.close()
        try:
            if self._tensorboard:
                self._tensorboard.close()
        except OSError as error:
            self._give_up_tensorboard(error)


class Pace:
    """The speed of a run, measured from the end of its first step, which compiles kernels and fills caches."""

    def __init__(self, total_steps: int, step: int, clock: Callable[[], float]) -> None:
        self._total_steps, self._clock = total_steps, clock
        self._before, self._first, self._step = step, step + 1, step
        self._tokens = self._first_tokens = 0  # real ones of this process; those of its first step
        self._opened, self._printed = clock(), False
        self._since = self._last = self._opened  # when the first step and the last one ended

    @property
    def is_first(self) -> bool:
        """Whether the last step was the first one of this process."""
        return self._step == self._first

    @property
    def tokens_per_step(self) -> float:
        """Real tokens of a step, the mean of those of this process."""
        return self._tokens / max(1, self._step - self._before)

    def advance(self, num_tokens: int) -> bool:
        """Count one step of so many real tokens; return whether to print the one early line that every run prints."""
        self._step, self._last = self._step + 1, self._clock()
        self._tokens += num_tokens
        if self.is_first:
            self._since, self._first_tokens = self._last, num_tokens
        is_due = self._step > self._first and not self._printed and self._last - self._opened >= FIRST_SECONDS
        self._printed = self._printed or is_due
        return is_due

    def line(self) -> str:
        """Return seconds per step, tokens/s and the time left, and how long the current step runs if that is long."""
        parts, waited = [], self._clock() - self._last
        if num_steps := self._step - self._first:
            seconds = max(self._last - self._since, 1e-9) / num_steps
            left = duration((self._total_steps - self._step) * seconds)
            each = f"{seconds:.2f}" if seconds < 10 else f"{seconds:.0f}"
            rate = (self._tokens - self._first_tokens) / (seconds * num_steps)
            parts.append(f"{each} s per step, {rate:,.0f} tokens/s, {left} left")
        if waited >= LINE_SECONDS or not parts:
            parts.append(f"step {self._step + 1} has taken {duration(waited)} so far")
        return f"step {self._step} of {self._total_steps}: {'; '.join(parts)}"


def tensorboard_tag(name: str) -> str:
    """Return the tag of a metric: its group, then its name.

    TensorBoard sorts groups by name: `loss` and `probe` come first, then `terms` of the losses and `training`, the
    rest. A group holds the charts of all students.
    """
    student, slash, own = name.partition("/")
    if not slash:
        return f"training/{name}"
    if own.partition("/")[0] == "loss":  # of a student, or of one size of an elastic one
        return f"{own}/{student}"
    if own.startswith("probe/"):
        return f"probe/{own.removeprefix('probe/')}/{student}"
    return f"{'training' if own.startswith(_NOT_LOSSES) else 'terms'}/{own}/{student}"


def loss_terms(values: Mapping[str, float], student: str) -> dict[str, float]:
    """Return a student's loss and its terms in one logged step, by their names without the student's."""
    prefix = f"{student}/"
    own = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
    return {name: value for name, value in own.items() if not name.startswith(_NOT_LOSSES)}


def read_metrics(run: Path) -> list[dict[str, float]]:
    """Return the logged steps of a run folder in order, the last record of each step.

    Raise ValueError naming the file and line if a line is broken, or if nothing was logged. A broken last line without
    a newline was cut by a kill: it is left out with a warning.
    """
    path = run / "metrics.jsonl"
    if not path.is_file():
        raise ValueError(f"{path}: no such file; has the run started?")
    records = _read_records(path)
    if not records:
        raise ValueError(f"{path}: no steps were logged")
    return records


def _read_records(path: Path) -> list[dict[str, float]]:
    lines = path.read_bytes().split(b"\n")
    records: dict[float, dict[str, float]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = orjson.loads(line)
            if not all(isinstance(value, int | float) for value in record.values()):
                raise TypeError
            records[record["step"]] = record
        except (ValueError, TypeError, KeyError, AttributeError):
            if number == len(lines):
                warnings.warn(f"{path}:{number}: the last line is cut short; left out", stacklevel=3)
                continue
            raise ValueError(f"{path}:{number}: must be a JSON object of numbers with a step") from None
    return [records[step] for step in sorted(records)]
