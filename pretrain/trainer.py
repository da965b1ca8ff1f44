"""General distillation: one pass of a frozen teacher a micro-batch serves every student."""

import time
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
from pretrain.metrics import Metrics, require_finite
from pretrain.teacher import TeacherFunction

Batch = Mapping[str, Tensor]


class TrainingConfig(BaseModel):
    """How long, how often, and the seed of everything that is drawn."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    total_steps: PositiveInt
    log_every_steps: PositiveInt = 50
    save_every_steps: PositiveInt = 5000
    keep_checkpoints: PositiveInt = 3
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
                    self.checkpoints.save(self.engines, self.state)
        if metrics:
            metrics.close()
        return self.state

    def _train_step(self, batches: Iterator[Batch], step: int) -> None:
        for index in range(self.engines[0].accumulation_steps):
            batch = self._to_device(next(batches))
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
        if dist.get_rank() != 0:
            return None
        return Metrics(self.run, self.config.total_steps, self.rows_per_step * self.row_tokens, self.state.step)

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
        require_finite(values, self.state.step)  # reduced over ranks: all of them stop, or none
        # Taking the metrics waited for the device: only now is the clock right.
        state = self.state.model_copy(update={"seconds": time.perf_counter() - self._started})
        since, self._logged = self._logged, state
        if metrics:
            rate = (state.tokens - since.tokens) / (state.seconds - since.seconds)
            metrics.write({**state.model_dump(), "tokens_per_second": rate, **values})
