"""The training loop of general distillation, in which one pass of the teacher serves every student."""

import math
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from pretrain.checkpoints.checkpoint import Checkpoints, TrainingState
from pretrain.device import explain_out_of_memory
from pretrain.engines.engine import StudentEngine
from pretrain.models.encoder import without_padding
from pretrain.models.teacher import TeacherFunction
from pretrain.objectives.vocabulary import with_places
from pretrain.probes.live_probe import LiveProbe
from pretrain.progress import Progress, busy_with
from pretrain.ranks.peers import Agreement, limit_collectives
from pretrain.ranks.stopping import StopReason
from pretrain.ranks.together import gather_objects, on_rank_zero
from pretrain.settings import Settings
from pretrain.training.metrics import Metrics
from pretrain.training.micro_batches import Batch, step_counts, to_device
from pretrain.training.prefetch import prefetch
from pretrain.training.slow_steps import SlowSteps

_LONG_STEP_SECONDS = 2.0  # from here on ranks agree to stop at the end of a step, waiting, instead of a step later


class DataLate(ValueError):
    """No batch came in time: its source hangs, but may work when the run is started again."""


class LoopConfig(Settings):
    """Intervals of logging and saving, time limits, and the seed of all random numbers."""

    log_every_steps: PositiveInt = 50
    save_every_steps: PositiveInt = 5000
    keep_checkpoints: PositiveInt = 3  # older ones are deleted
    max_skipped_in_a_row: PositiveInt = 20  # steps with a loss or gradient that is not finite, before the run stops
    collective_timeout_seconds: PositiveInt = 600  # for a rank to answer; at least 1800 while models load
    data_timeout_seconds: PositiveInt = 300  # for one batch, before its source counts as hanging
    on_slow_step: Literal["warn", "stop"] = "warn"  # for steps of ten times the usual; stop: save and exit, to resume
    seed: NonNegativeInt = 17


class TrainingConfig(LoopConfig):
    """Length of a run, intervals of logging and saving, time limits, and the seed of all random numbers."""

    total_steps: PositiveInt  # also the length of the learning rate's schedule


class Trainer:
    """One run: reads batches, trains every student, logs and saves. Loads the newest checkpoint when created.

    Args:
        run: the run folder, for checkpoints and metrics.
        teacher: returns the features of a batch for all students: a `Teacher`, or `no_teacher`.
        engines: one for each student.
        batches_from: returns this rank's endless micro-batches [B, L] from a row position, counted over all ranks.
        rows_per_step: size of a global batch.
        stop_requested: returns why this rank should stop, or NONE; the ranks agree on the largest reason.
        probe: measured before the first step, at its own steps and after the last one.

    Raises:
        ValueError: if the newest checkpoint cannot be read or does not fit the students.
    """

    def __init__(
        self,
        run: Path,
        config: TrainingConfig,
        teacher: TeacherFunction,
        engines: Sequence[StudentEngine],
        batches_from: Callable[[int], Generator[dict[str, Tensor], None, None]],
        rows_per_step: int,
        device: torch.device,
        stop_requested: Callable[[], StopReason] = lambda: StopReason.NONE,
        probe: LiveProbe | None = None,
    ) -> None:
        self.run, self.config, self.teacher, self.engines = run, config, teacher, engines
        self.batches_from, self.rows_per_step = batches_from, rows_per_step
        self.device, self.stop_requested, self.probe = device, stop_requested, probe
        self.agreement = Agreement(config.collective_timeout_seconds)
        limit_collectives(config.collective_timeout_seconds)  # after the engines, which make groups
        self._slow_steps, self._step_seconds = SlowSteps(), 0.0
        self._data_seconds = self._data_seconds_before = 0.0  # spent waiting for data in this step and the one before
        self._step_started, self._save_seconds = 0.0, 0.0
        self._steps_are_long = True  # until the ranks agree on how long the first one took
        self._device_step: torch.cuda.Event | None = None  # where the last step ends in the device's queue
        self._reads_places = any(engine.student.reads_places for engine in engines)
        self._needs_counts = any(engine.student.needs_counts for engine in engines)
        self._skipped_rows = 0  # on this rank since the last logged step
        self._tokens = self._step_tokens = 0  # real ones on this rank: not yet in the state, and of the last step
        self.checkpoints = Checkpoints(run, config.keep_checkpoints)
        with Progress("loading the checkpoint"):
            self.state = self.checkpoints.load(engines)
        if self.state.step and dist.get_rank() == 0:
            where = self.checkpoints.folder / f"step_{self.state.step}"
            print(f"[rank 0] resuming from {where}", file=sys.stderr, flush=True)

    def train(self) -> StopReason:
        """Train from the loaded checkpoint to `total_steps`, and save. Return why it stopped earlier, or NONE.

        Raise DataLate if a batch does not come in time, and ValueError after too many skipped steps in a row.
        """
        config, stop = self.config, self._agree_at_start()
        metrics = self._open_metrics()
        batches_ahead = prefetch(self.batches_from(self.state.rows), config.data_timeout_seconds)
        with closing(metrics) if metrics else nullcontext(), closing(batches_ahead) as batches:
            self._logged = self.state
            self._started = time.perf_counter() - self.state.seconds
            if self.probe and self.state.step == 0 and not stop:
                stop = self._log_start(metrics)
            for step in range(self.state.step + 1, config.total_steps + 1):
                if stop:
                    break
                with nullcontext() if self._step_seconds else Progress("the first step"):
                    self._train_step(batches, step)
                self._advance(metrics)
                stop = self._agree(step)
                if self._steps_are_long and not stop:
                    stop = self._agree_now()
                last = step == config.total_steps
                probed = self.probe is not None and (last or self.probe.is_due(step))
                if probed or last or stop or step % config.log_every_steps == 0:
                    self._log(metrics, probed)
                if probed and not stop:
                    stop = self._agree_now()
                if last or stop or step % config.save_every_steps == 0:
                    self._save(continues=not (last or stop))
        self.agreement.settle()
        return stop if self.state.step < config.total_steps else StopReason.NONE

    def outlook(self) -> str:
        """Return what a request to stop waits for, and about how long. May be called from any thread."""
        phase = busy_with("")
        if phase or not self._step_seconds:
            return f"after {phase or 'this step'}, then saving"
        seconds = self._step_seconds - (time.perf_counter() - self._step_started)
        return f"after this step, then saving; about {max(seconds, 0) + self._save_seconds:.0f} s"

    def _agree_at_start(self) -> StopReason:
        """Return why any rank was asked to stop while models were loaded, or NONE."""
        self.agreement.exchange([self.stop_requested()])
        return StopReason(self.agreement.settle()[0])

    def _agree(self, step: int) -> StopReason:
        """Return why every rank stops after this step, or NONE. Warn if the step before was slow."""
        stop, step_ms = self.agreement.exchange([self.stop_requested(), int(1000 * self._step_seconds)])
        waited, self._data_seconds_before = self._data_seconds_before, self._data_seconds
        self._steps_are_long = step_ms > 1000 * _LONG_STEP_SECONDS if step_ms else self._steps_are_long
        slow = self._slow_steps.check(step_ms / 1000)
        if slow:
            seconds = gather_objects(waited)
            if dist.get_rank() == 0:
                longest = max(seconds)
                waits = f"rank {seconds.index(longest)} waited {longest:.1f} s of it for data"
                warnings.warn(f"step {step - 1} {slow}; {waits}", stacklevel=2)
        if slow and not stop and self.config.on_slow_step == "stop":
            return StopReason.SLOW_STEP
        return StopReason(stop)

    def _train_step(self, batches: Iterator[Batch], step: int) -> None:
        started = self._step_started = time.perf_counter()
        self._data_seconds = 0.0
        micro_batches = [self._next(batches) for _ in range(self.engines[0].accumulation_steps)]
        counts = step_counts(micro_batches, self.device) if self._needs_counts else {}
        self._step_tokens = sum(int(batch["attention_mask"].sum()) for batch in micro_batches)
        for index, batch in enumerate(micro_batches):
            # Rows that the corpus could not read come empty: CLS, SEP and padding.
            self._skipped_rows += int((batch["attention_mask"].sum(1) <= 2).sum())
            batch = without_padding(batch)
            batch = {**to_device(with_places(batch) if self._reads_places else batch, self.device), **counts}
            with explain_out_of_memory(batch):
                features = self.teacher(batch)
                for engine in self.engines:
                    engine.train_micro_batch(batch, features, self._dropout_seed(engine.name, step, index))
            del batch, features  # free their memory before the next ones
        if self.device.type == "cuda":
            self._follow_device()
        self._step_seconds = time.perf_counter() - started

    def _follow_device(self) -> None:
        """Wait for the step before this one: otherwise step times would be those of launching kernels."""
        done, before = torch.cuda.Event(), self._device_step
        done.record()
        if before:
            before.synchronize()
        self._device_step = done

    def _next(self, batches: Iterator[Batch]) -> Batch:
        started = time.perf_counter()
        try:
            return next(batches)
        except TimeoutError as error:
            message = f"row position {self.state.rows}: no batch came within {self.config.data_timeout_seconds} s "
            raise DataLate(f"{message}(training.data_timeout_seconds); its source hangs") from error
        finally:
            self._data_seconds += time.perf_counter() - started

    def _dropout_seed(self, name: str, step: int, index: int) -> int:
        # A hash, not a random number: the same after resuming, and for a student alone or together with others.
        return zlib.crc32(f"{self.config.seed} {name} {step} {index} {dist.get_rank()}".encode())

    def _open_metrics(self) -> Metrics | None:
        opened: list[Metrics] = []
        on_rank_zero(lambda: opened.append(Metrics(self.run, self.config.total_steps, self.state.step)))
        return opened[0] if opened else None

    def _advance(self, metrics: Metrics | None) -> None:
        self.state = TrainingState(
            step=self.state.step + 1,
            rows=self.state.rows + self.rows_per_step,
            tokens=self.state.tokens,
            seconds=time.perf_counter() - self._started,
        )
        self._tokens += self._step_tokens
        if metrics:  # between logged steps ranks do not ask each other
            metrics.advance(self._step_tokens * dist.get_world_size())

    def _log_start(self, metrics: Metrics | None) -> StopReason:
        """Probe and log the students before their first step. Return why any rank was asked to stop, or NONE."""
        values = self._measure()
        if metrics:
            metrics.write({**self.state.model_dump(), **values})
        return self._agree_now()

    def _measure(self) -> dict[str, float]:
        """Return the probe's scores; the time for it does not count as training time."""
        assert self.probe
        with Progress(f"measuring the students at step {self.state.step}"):
            values = self.probe.measure(self.state.step, [engine.student for engine in self.engines])
        self._started += values["probe_seconds"]
        return values

    def _agree_now(self) -> StopReason:
        """Return why any rank was asked to stop until now, or NONE. Waits for all ranks."""
        asked = torch.tensor(self.stop_requested(), device=self.device)
        dist.all_reduce(asked, dist.ReduceOp.MAX)
        return StopReason(int(asked))

    def _log(self, metrics: Metrics | None, probed: bool) -> None:
        values = {f"{engine.name}/{name}": v for engine in self.engines for name, v in engine.take_metrics().items()}
        skipped_rows, self._skipped_rows = torch.tensor(self._skipped_rows, device=self.device), 0
        dist.all_reduce(skipped_rows)
        self._count_tokens()
        self._check_skipped(values)
        # Taking the metrics has waited for the device, so now the time is right.
        state = self.state.model_copy(update={"seconds": time.perf_counter() - self._started})
        since, self._logged = self._logged, state
        probe = self._measure() if probed else {}
        if metrics and all(map(math.isfinite, values.values())):
            rate = (state.tokens - since.tokens) / (state.seconds - since.seconds)
            facts = {**state.model_dump(), "tokens_per_second": rate, "skipped_rows": int(skipped_rows)}
            metrics.write({**facts, **values, **probe})

    def _count_tokens(self) -> None:
        """Add the real tokens of all ranks to the state. Every rank must call it."""
        tokens, self._tokens = torch.tensor(self._tokens, device=self.device), 0
        dist.all_reduce(tokens)
        self.state = self.state.model_copy(update={"tokens": self.state.tokens + int(tokens)})

    def _check_skipped(self, values: Mapping[str, float]) -> None:
        """Warn about skipped steps. Raise ValueError, on every rank, after too many in a row."""
        for engine in self.engines:
            skipped, in_a_row = (int(values[f"{engine.name}/{name}"]) for name in ("skipped_steps", "skipped_in_a_row"))
            if in_a_row >= self.config.max_skipped_in_a_row:
                raise ValueError(
                    f"step {self.state.step}: {engine.name}: {in_a_row} steps in a row had a loss or gradient that is "
                    "not finite; stopping, the last checkpoint is kept"
                )
            if skipped and dist.get_rank() == 0:
                since = self.state.step - self._logged.step
                what = f"step {self.state.step}: {engine.name}: {skipped} of the last {since} steps"
                warnings.warn(f"{what} had a loss or gradient that is not finite and changed nothing", stacklevel=2)

    def _save(self, continues: bool) -> None:
        """Save a checkpoint, but not if the run `continues` and a student's last step was skipped.

        Such a student may be ruined, and saving would delete an older, good checkpoint. At the end it is saved: skipped
        steps have changed no weight.
        """
        bad = [engine.name for engine in self.engines if engine.is_bad] if continues else []
        if not bad:
            self._count_tokens()
            with Progress(f"saving the checkpoint of step {self.state.step}") as saving:
                self.checkpoints.save(self.engines, self.state)
            self._save_seconds = saving.seconds
        elif dist.get_rank() == 0:
            message = f"step {self.state.step}: the loss of {', '.join(bad)} is not finite; not saved"
            warnings.warn(message, stacklevel=2)
