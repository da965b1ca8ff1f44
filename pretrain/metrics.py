"""Metrics of a run: JSON lines for what reads them later, TensorBoard for looking, a progress line for now.

Without a terminal the progress is a line a logged step: a log file has no use for one that is drawn again and again.
"""

import errno
import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

import orjson
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from pretrain.durable import write_durably

_NO_LOSSES = ("learning_rate", "grad_norm", "skipped_", "probe/")  # what else is logged of a student


class Metrics:
    """metrics.jsonl, tensorboard/ and the progress line of one run; rank 0 only.

    A run that resumes drops the lines after its checkpoint, so that no step stands there twice. Losses of a line are
    means since the line before, or since the resume.
    """

    def __init__(self, run: Path, total_steps: int, tokens_per_step: int, step: int = 0) -> None:
        run.mkdir(parents=True, exist_ok=True)
        self.path = run / "metrics.jsonl"
        # None where a run was killed between its first checkpoint and its first line
        logged = _read_records(self.path) if self.path.is_file() and step else []
        kept = [line for line in logged if line["step"] <= step]
        write_durably(self.path, b"".join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in kept))
        self._file = self.path.open("ab", buffering=0)
        self._waiting: list[bytes] = []  # lines that the disk has refused so far
        self._tensorboard: SummaryWriter | None = SummaryWriter(run / "tensorboard", purge_step=step + 1)
        self._total_steps, self._tokens_per_step = total_steps, tokens_per_step
        self._bar = tqdm(
            total=total_steps * tokens_per_step,
            initial=step * tokens_per_step,
            unit="tok",
            unit_scale=True,
            mininterval=1.0,
            file=sys.stderr,
            dynamic_ncols=True,
            disable=None,  # without a terminal
        )

    def advance(self) -> None:
        """One step done; no value is read from the device."""
        self._bar.update(self._tokens_per_step)

    def write(self, values: Mapping[str, float]) -> None:
        """One logged step: `step` and whatever else, student metrics prefixed by the student's name."""
        self._waiting.append(orjson.dumps(dict(values), option=orjson.OPT_APPEND_NEWLINE))
        self._write_waiting()
        step = int(values["step"])
        if self._tensorboard:
            try:
                for name, value in values.items():
                    if name != "step":
                        self._tensorboard.add_scalar(name, value, step)
            except OSError as error:
                self._give_up_tensorboard(error)
        self._show(step, values)

    def _show(self, step: int, values: Mapping[str, float]) -> None:
        """The losses on the progress line or a line of their own; what a probe gave above it, to stay."""
        shown = {name: f"{value:.4f}" for name, value in values.items()}
        losses = [f"{name.removesuffix('/loss')} {text}" for name, text in shown.items() if name.endswith("/loss")]
        if not self._bar.disable:
            self._bar.set_postfix_str(", ".join([f"step {step}", *losses]))
        elif losses:
            print(f"step {step} of {self._total_steps}: {', '.join(losses)}{self._pace(step, values)}", file=sys.stderr)
        if scores := [f"{name.replace('/probe/', ' ')} {text}" for name, text in shown.items() if "/probe/" in name]:
            tqdm.write(f"step {step}: {', '.join(scores)}", file=sys.stderr)

    def _pace(self, step: int, values: Mapping[str, float]) -> str:
        if not (rate := values.get("tokens_per_second")):
            return ""
        seconds = (self._total_steps - step) * self._tokens_per_step / rate
        return f"; {rate:,.0f} tokens/s, {tqdm.format_interval(seconds)} left"

    def _write_waiting(self) -> None:
        """Append whole lines or nothing: a disk that is full now may have room at the next step that is logged."""
        data, end = b"".join(self._waiting), self._file.seek(0, os.SEEK_END)
        try:
            if self._file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._waiting.clear()
        except OSError as error:
            self._file.truncate(end)
            what = f"{self.path}: cannot be written: {error.strerror}; {len(self._waiting)} line(s) wait in memory"
            warnings.warn(what, stacklevel=3)

    def _give_up_tensorboard(self, error: OSError) -> None:
        warnings.warn(f"{self.path.parent / 'tensorboard'}: no more is written: {error.strerror}", stacklevel=3)
        self._tensorboard = None

    def close(self) -> None:
        """Flush everything."""
        self._bar.close()
        if self._waiting:
            self._write_waiting()
        self._file.close()
        try:
            if self._tensorboard:
                self._tensorboard.close()
        except OSError as error:
            self._give_up_tensorboard(error)


def loss_terms(values: Mapping[str, float], student: str) -> dict[str, float]:
    """The student's loss and the terms of it in one logged step, by their names without the student's."""
    prefix = f"{student}/"
    own = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
    return {name: value for name, value in own.items() if not name.startswith(_NO_LOSSES)}


def read_metrics(run: Path) -> list[dict[str, float]]:
    """The logged steps of a run by step, the last record of each.

    ValueError naming file and line where one is broken, or where there is none. A last line without its newline that
    cannot be read was cut by a kill: it is left out with a warning.
    """
    path = run / "metrics.jsonl"
    if not path.is_file():
        raise ValueError(f"{path}: no such file; has the run begun?")
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
            raise ValueError(f"{path}:{number}: want a JSON object of numbers with a step") from None
    return [records[step] for step in sorted(records)]
