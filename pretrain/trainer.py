"""General distillation: one pass of a frozen teacher a micro-batch serves every student."""

import math
import time
import warnings
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import torch
import torch.distributed as dist
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt
from torch import Tensor

from pretrain.checkpoint import Checkpoints, TrainingState
from pretrain.encoder import without_padding
from pretrain.engine import StudentEngine
from pretrain.metrics import Metrics
from pretrain.outcome import on_rank_zero
from pretrain.teacher import TeacherFunction

Batch = Mapping[str, Tensor]


class TrainingConfig(BaseModel):
    """How long, how often, and the seed of everything that is drawn."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    total_steps: PositiveInt
    log_every_steps: PositiveInt = 50
    save_every_steps: PositiveInt = 5000
    keep_checkpoints: PositiveInt = 3
    max_skipped_in_a_row: PositiveInt = 20  # steps whose loss or gradient was not finite; more stop the run
    seed: NonNegativeInt = 17


class Trainer:
    """The run: reads batches from a row position on, teaches, logs, saves; resumes from the newest checkpoint.

    Args:
        batches_from: row position -> endless micro-batches [B, L] of this rank; the position counts rows of all ranks.
        rows_per_step, row_tokens: size of one global batch.
    """

    def __init__(
        self,
        run: Path,
        config: TrainingConfig,
        teacher: TeacherFunction,
        engines: Sequence[StudentEngine],
        batches_from: Callable[[int], Generator[dict[str, Tensor], None, None]],
        rows_per_step: int,
        row_tokens: int,
        device: torch.device,
    ) -> None:
        self.run, self.config, self.teacher, self.engines = run, config, teacher, engines
        self.batches_from, self.rows_per_step, self.row_tokens = batches_from, rows_per_step, row_tokens
        self.device = device
        self._skipped_rows = 0  # of this rank, since it last logged
        self.checkpoints = Checkpoints(run, config.keep_checkpoints)
        self.state = self.checkpoints.load(engines)

    def train(self) -> TrainingState:
        """Train to `total_steps`, from wherever the run stands."""
        config = self.config
        metrics = self._open_metrics()
        with closing(self.batches_from(self.state.rows)) as batches:
            self._logged = self.state
            self._started = time.perf_counter() - self.state.seconds
            for step in range(self.state.step + 1, config.total_steps + 1):
                self._train_step(batches, step)
                self._advance(metrics)
                last = step == config.total_steps
                if last or step % config.log_every_steps == 0:
                    self._log(metrics)
                if last or step % config.save_every_steps == 0:
                    self._save()
        if metrics:
            metrics.close()
        return self.state

    def _train_step(self, batches: Iterator[Batch], step: int) -> None:
        for index in range(self.engines[0].accumulation_steps):
            batch = next(batches)
            # Rows that the corpus could not give come empty: CLS SEP and padding.
            self._skipped_rows += int((batch["attention_mask"].sum(1) <= 2).sum())
            batch = self._to_device(batch)
            features = self.teacher(batch)
            for engine in self.engines:
                engine.train_micro_batch(batch, features, self._dropout_seed(engine.name, step, index))

    def _to_device(self, batch: Batch) -> Batch:
        batch = without_padding(batch)
        if self.device.type == "cpu":
            return batch
        return {name: tensor.pin_memory().to(self.device, non_blocking=True) for name, tensor in batch.items()}

    def _dropout_seed(self, name: str, step: int, index: int) -> int:
        # Keyed, not drawn: the same after a resume, and for a student alone or beside others.
        return zlib.crc32(f"{self.config.seed} {name} {step} {index} {dist.get_rank()}".encode())

    def _open_metrics(self) -> Metrics | None:
        tokens_per_step, opened = self.rows_per_step * self.row_tokens, []
        on_rank_zero(
            lambda: opened.append(Metrics(self.run, self.config.total_steps, tokens_per_step, self.state.step))
        )
        return opened[0] if opened else None

    def _advance(self, metrics: Metrics | None) -> None:
        self.state = TrainingState(
            step=self.state.step + 1,
            rows=self.state.rows + self.rows_per_step,
            tokens=self.state.tokens + self.rows_per_step * self.row_tokens,
            seconds=time.perf_counter() - self._started,
        )
        if metrics:
            metrics.advance()

    def _log(self, metrics: Metrics | None) -> None:
        values = {f"{engine.name}/{name}": v for engine in self.engines for name, v in engine.take_metrics().items()}
        skipped_rows, self._skipped_rows = torch.tensor(self._skipped_rows, device=self.device), 0
        dist.all_reduce(skipped_rows)
        self._heed_skipped(values)
        # Taking the metrics waited for the device: only now is the clock right.
        state = self.state.model_copy(update={"seconds": time.perf_counter() - self._started})
        since, self._logged = self._logged, state
        if metrics and all(map(math.isfinite, values.values())):
            rate = (state.tokens - since.tokens) / (state.seconds - since.seconds)
            metrics.write(
                {**state.model_dump(), "tokens_per_second": rate, "skipped_rows": int(skipped_rows), **values}
            )

    def _heed_skipped(self, values: Mapping[str, float]) -> None:
        """Warns of skipped steps; ValueError, on every rank, after too many in a row."""
        for engine in self.engines:
            skipped, in_a_row = (int(values[f"{engine.name}/{name}"]) for name in ("skipped_steps", "skipped_in_a_row"))
            if in_a_row >= self.config.max_skipped_in_a_row:
                raise ValueError(
                    f"step {self.state.step}: {engine.name}: {in_a_row} steps in a row had a loss or gradient that is "
                    "not finite; stopped, the last checkpoint is kept"
                )
            if skipped and dist.get_rank() == 0:
                since = self.state.step - self._logged.step
                what = f"step {self.state.step}: {engine.name}: {skipped} of the last {since} steps"
                warnings.warn(f"{what} had a loss or gradient that is not finite and changed nothing", stacklevel=2)

    def _save(self) -> None:
        """Saves, unless a student may be beyond help: where its last step was skipped, the checkpoint before stands."""
        bad = [engine.name for engine in self.engines if engine.is_bad]
        if bad and self.state.step == self.config.total_steps:
            raise ValueError(f"step {self.state.step}: the loss of {', '.join(bad)} is not finite; not saved")
        if not bad:
            self.checkpoints.save(self.engines, self.state)
        elif dist.get_rank() == 0:
            message = f"step {self.state.step}: the loss of {', '.join(bad)} is not finite; not saved"
            warnings.warn(message, stacklevel=2)
