"""The `deepspeed` section of a configuration, and its arithmetic of batches."""

import warnings
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from pretrain.precision import Dtype, WantedDtype
from pretrain.settings import Settings


class AutocastConfig(Settings):
    """Lower precision for the students' matrix products; weights and gradients stay float32.

    Named as DeepSpeed's section. Student.forward does it itself: see loss_scale.py.
    """

    enabled: bool
    dtype: Literal["auto", "bfloat16", "float16"] = "auto"  # auto: as teacher.dtype, so off where float32 is the best

    @property
    def wanted(self) -> WantedDtype:
        """The type that students are to compute in."""
        return self.dtype if self.enabled else "float32"

    @classmethod
    def of(cls, dtype: Dtype) -> "AutocastConfig":
        """The section that asks for this type."""
        return cls(enabled=False) if dtype == "float32" else cls(enabled=True, dtype=dtype)


class ZeroConfig(Settings):
    """DeepSpeed's `zero_optimization` section. Stage 3 would shard students of a few megabytes."""

    stage: Literal[0, 1, 2] = 0
    overlap_comm: bool = False
    reduce_bucket_size: PositiveInt = 500_000_000
    allgather_bucket_size: Annotated[int, Field(gt=0, multiple_of=2)] = 500_000_000  # DeepSpeed refuses odd ones


class DeepSpeedConfig(Settings):
    """The part of DeepSpeed's config that means something here; DeepSpeed itself accepts unknown keys silently."""

    train_batch_size: PositiveInt  # rows a step, of all ranks; a multiple of them
    train_micro_batch_size_per_gpu: PositiveInt  # at most: fewer where a rank's share of a step wants it
    gradient_clipping: Annotated[float, Field(ge=0)] = 1.0  # the largest norm of a student's gradients; 0 for none
    torch_autocast: AutocastConfig = AutocastConfig(enabled=True)
    zero_optimization: ZeroConfig = ZeroConfig()
    communication_data_type: Literal["fp32", "bf16"] | None = None  # that gradients are added up in between ranks

    def micro_rows(self, world_size: int) -> int:
        """Rows of a micro-batch: as many as the config allows and a rank's share of the global batch is cut evenly by.

        ValueError when the ranks cannot share the global batch.
        """
        rows_per_rank, rest = divmod(self.train_batch_size, world_size)
        if rest:
            ranks = f"{world_size} ranks"
            raise ValueError(f"deepspeed.train_batch_size: must be a multiple of {ranks}, got {self.train_batch_size}")
        most = min(self.train_micro_batch_size_per_gpu, rows_per_rank)
        return next(rows for rows in range(most, 0, -1) if rows_per_rank % rows == 0)

    def accumulation_steps(self, world_size: int) -> int:
        """Micro-batches a rank adds up for one step; ValueError as micro_rows."""
        return self.train_batch_size // (self.micro_rows(world_size) * world_size)

    def warn(self, world_size: int) -> None:
        """Say what is not done as the config has it."""
        rows, wanted = self.micro_rows(world_size), self.train_micro_batch_size_per_gpu
        if rows != wanted:
            share = self.train_batch_size // world_size
            warnings.warn(
                f"{rows} rows at once, not {wanted} (deepspeed.train_micro_batch_size_per_gpu): each of {world_size} "
                f"ranks has {share} of the {self.train_batch_size} rows of a step",
                stacklevel=2,
            )
