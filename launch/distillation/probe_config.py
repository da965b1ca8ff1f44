"""The `probe` section of a run's configuration: what is measured of the students while they train."""

from typing import Annotated

from pydantic import Field, PositiveInt, model_validator

from pretrain.probes.vectors import NUM_NEIGHBOURS
from pretrain.settings import Settings
from tasks.config import TaskConfig


class ProbeConfig(Settings):
    """Nearest neighbours on a task, relation losses on a held-out corpus, or both; at step 0, every n steps, the last.

    It changes nothing of the training, and may change between a run and its resumption. The same examples are drawn
    from larger files in every run. As given here it takes the time of 5 steps of 32 rows of 128 tokens (4 x 312 beside
    12 x 384, titles of TNEWS, one CPU thread), and what is read of the teacher, once, that of 12.
    """

    every_steps: PositiveInt = 500
    task: TaskConfig | None = None  # of single sentences; texts are cut at its row_tokens
    heldout: Annotated[str, Field(min_length=1)] | None = None  # manifest, of the run's tokenizer; wants a teacher
    max_train: Annotated[int, Field(ge=NUM_NEIGHBOURS)] = 2000
    max_dev: PositiveInt = 1000
    max_heldout_rows: PositiveInt = 256  # of corpus.row_tokens

    @model_validator(mode="after")
    def _measures_something(self) -> "ProbeConfig":
        if self.task is None and self.heldout is None:
            raise ValueError("wants a task, a heldout corpus, or both")
        if self.task and self.task.kind != "sentence":
            raise ValueError(f"task.kind: neighbours are found for single sentences (sentence), got {self.task.kind}")
        return self
