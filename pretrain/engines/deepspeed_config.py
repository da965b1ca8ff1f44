"""The `deepspeed` section of a configuration, and the batch sizes that follow from it."""

import warnings
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from pretrain.precision import Dtype, WantedDtype
from pretrain.settings import Settings


class AutocastConfig(Settings):
    """Lower precision for the students' matrix products; weights and gradients stay float32.

    The section is named as in DeepSpeed, but Student.forward applies it instead of DeepSpeed (see loss_scale.py).
    """

    enabled: bool
    dtype: Literal["auto", "bfloat16", "float16"] = "auto"  # auto: as teacher.dtype; off if float32 is the best

    @property
    def wanted(self) -> WantedDtype:
        """The type that students compute in, or "auto"."""
        return self.dtype if self.enabled else "float32"

    @classmethod
    def of(cls, dtype: Dtype) -> "AutocastConfig":
        """Return the section that selects this type."""
        return cls(enabled=False) if dtype == "float32" else cls(enabled=True, dtype=dtype)


class ZeroConfig(Settings):
    """DeepSpeed's `zero_optimization` section. Stage 3 is left out: it would shard students of a few megabytes."""

    stage: Literal[0, 1, 2] = 0
    overlap_comm: bool = False
    reduce_bucket_size: PositiveInt = 500_000_000
    allgather_bucket_size: Annotated[int, Field(gt=0, multiple_of=2)] = 500_000_000  # even, as DeepSpeed requires


class DeepSpeedConfig(Settings):
    """The keys of DeepSpeed's config that have an effect here. DeepSpeed itself silently ignores unknown keys."""

    train_batch_size: PositiveInt  # rows per step over all ranks; a multiple of the number of ranks
    train_micro_batch_size_per_gpu: PositiveInt  # at most; fewer if they must divide a rank's rows evenly
    gradient_clipping: Annotated[float, Field(ge=0)] = 1.0  # largest norm of a student's gradients; 0: no clipping
    torch_autocast: AutocastConfig = AutocastConfig(enabled=True)
    zero_optimization: ZeroConfig = ZeroConfig()
    communication_data_type: Literal["fp32", "bf16"] | None = None  # for summing gradients over ranks

    def micro_rows(self, world_size: int) -> int:
        """Return the rows of a micro-batch: the largest allowed number that divides a rank's rows of a step.

        Raise ValueError if the global batch cannot be divided evenly among the ranks.
        """
        rows_per_rank, rest = divmod(self.train_batch_size, world_size)
        if rest:
            ranks = f"{world_size} ranks"
            raise ValueError(f"deepspeed.train_batch_size: must be a multiple of {ranks}, got {self.train_batch_size}")
        most = min(self.train_micro_batch_size_per_gpu, rows_per_rank)
        return next(rows for rows in range(most, 0, -1) if rows_per_rank % rows == 0)

    def accumulation_steps(self, world_size: int) -> int:
        """Return the number of micro-batches that each rank accumulates per step. Raise ValueError as micro_rows."""
        return self.train_batch_size // (self.micro_rows(world_size) * world_size)

    def warn(self, world_size: int) -> None:
        """Warn if micro-batches have fewer rows than configured."""
        rows, wanted = self.micro_rows(world_size), self.train_micro_batch_size_per_gpu
        if rows != wanted:
            share = self.train_batch_size // world_size
            warnings.warn(
                f"{rows} rows at once instead of {wanted} (deepspeed.train_micro_batch_size_per_gpu): each of "
                f"{world_size} ranks has {share} of the {self.train_batch_size} rows of a step",
                stacklevel=2,
            )
