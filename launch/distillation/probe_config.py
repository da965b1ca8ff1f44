"""The `probe` section of a run's configuration: scores of the students during training."""

from typing import Annotated

from pydantic import Field, PositiveInt, model_validator

from pretrain.probes.vectors import NUM_NEIGHBOURS
from pretrain.settings import Settings
from tasks.config import TaskConfig


class ProbeConfig(Settings):
    """Scores at step 0, every n steps and the end: neighbours on a task, retrieval, pairs, a held-out relation loss.

    A probe does not affect training, and may change when a run resumes. From larger files the same random examples are
    used in every run. With the default sizes a probe takes as long as 5 steps of 32 rows of 128 tokens (student 4 x
    312, teacher 12 x 384, titles of TNEWS, one CPU thread), and reading the teacher once as long as 12.
    """

    every_steps: PositiveInt = 500
    task: TaskConfig | None = None  # of kind sentence; texts are cut at its row_tokens
    documents: Annotated[str, Field(min_length=1)] | None = None  # {"title", "text"} lines: titles look for texts
    pairs: TaskConfig | None = None  # of kind pair with labels 0 and 1, which cosines are to tell; its dev file is read
    heldout: Annotated[str, Field(min_length=1)] | None = None  # manifest of another corpus with the same tokenizer
    max_train: Annotated[int, Field(ge=NUM_NEIGHBOURS)] = 2000  # texts among which neighbours are searched
    max_dev: PositiveInt = 1000  # texts to classify by their neighbours, documents, and pairs
    max_heldout_rows: PositiveInt = 256  # of corpus.row_tokens

    @model_validator(mode="after")
    def _measures_something(self) -> "ProbeConfig":
        if not (self.task or self.documents or self.pairs or self.heldout):
            raise ValueError("needs a task, documents, pairs or a heldout corpus")
        if self.pairs and self.pairs.kind != "pair":
            raise ValueError(f"pairs.kind: must be pair, got {self.pairs.kind}")
        if self.task and self.task.kind != "sentence":
            raise ValueError(f"task.kind: must be sentence, got {self.task.kind}")
        return self
