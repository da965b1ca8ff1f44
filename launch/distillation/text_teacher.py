"""The teacher as a source of text vectors alone: with a prompt that students do not read, or from a folder.

Shapes: B rows of one text each, L tokens, D the teacher's width.
"""

import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from corpus.rows.packing import Frame
from corpus.rows.prompts import insert_prompt
from corpus.rows.read_ahead import Batch
from corpus.rows.stream import RowStream, frame_of
from corpus.shards.manifest import Manifest
from launch.distillation.config import RunConfig
from launch.distillation.prompt import RunPrompt, prompt_of_students
from pretrain.durable import try_lock
from pretrain.models.encoder import Features, real_tokens, without_padding
from pretrain.models.pooling import Pooling, pool
from pretrain.models.stored_vectors import StoredVectors
from pretrain.models.teacher import Teacher, TeacherFunction
from pretrain.objectives.sentence import SentenceConfig
from pretrain.progress import Progress
from pretrain.ranks.stopping import StopReason
from pretrain.ranks.together import gather_objects, on_rank_zero

BatchesFrom = Callable[[int], Generator[Batch, None, None]]
_NAME = "text_vectors"  # of the batches' tensor


class TextTeacher:
    """A function from batches to the teacher's text vectors.

    Args:
        teacher: reads its last hidden states.
        frame: what stands before and after a text in the rows of batches.
        prompt: ids that are put before the texts of batches.
    """

    def __init__(self, teacher: Teacher, pooling: Pooling, frame: Frame, prompt: Sequence[int] = ()) -> None:
        self._teacher, self._pooling, self.frame = teacher, pooling, frame
        self._prompt = torch.tensor(prompt, dtype=torch.int64)

    def __call__(self, batch: Mapping[str, Tensor]) -> Features:
        """Return features that have the vectors [B, D] of texts, float32, and nothing else."""
        prompted = insert_prompt(dict(batch), self._prompt, self.frame)
        features = self._teacher(prompted)
        states = features.hidden_states[self._teacher.encoder.reads.num_layers]
        return Features(text_vectors=features.mapped(pool(states.float(), real_tokens(prompted), self._pooling)))


def stored_teacher(batch: Mapping[str, Tensor]) -> Features:
    """Stand in for a teacher whose vectors the batches have."""
    return Features(text_vectors=batch[_NAME].float())


def with_vectors(
    batches: Generator[Batch, None, None], stored: StoredVectors, frame: Frame
) -> Generator[Batch, None, None]:
    """Yield batches with the teacher's vectors in place of where their rows lie in the corpus.

    Rows in place of damaged blocks have the vector 0, by which nothing is learned. Raise ValueError for other rows
    without a vector.
    """
    with closing(batches):
        for batch in batches:
            blocks, rows = batch.pop("block"), batch.pop("row")
            vectors = stored.take(blocks, rows)
            vectors[batch["attention_mask"].sum(1) <= frame.num_tokens] = 0
            if (missing := vectors[:, 0].isnan()).any():
                where = f"block {int(blocks[missing][0])}: row {int(rows[missing][0])}"
                raise ValueError(f"{stored.folder}: {where} has no vector: files were deleted since the run began")
            yield batch | {_NAME: vectors}


class VectorSource:
    """Where a run whose students get nothing but text vectors has them from."""

    def __init__(
        self,
        config: RunConfig,
        manifest: Manifest,
        prompt: RunPrompt | None,
        teacher: Teacher,
        teacher_fingerprint: str,
        device: torch.device,
    ) -> None:
        objectives = [one for student in config.students for one in student.objective]
        self._pooling = next(one.pooling for one in objectives if isinstance(one, SentenceConfig))
        ids = prompt.ids if prompt else ()
        self._teacher = TextTeacher(teacher, self._pooling, frame_of(manifest), ids[len(prompt_of_students(prompt)) :])
        self._num_rows, self._device = config.training.total_steps * config.deepspeed.train_batch_size, device
        self._stored: StoredVectors | None = None
        if config.teacher and config.teacher.vectors:
            dense = teacher.vector_map
            identity = {
                "teacher": teacher_fingerprint,
                "precision": str(next(teacher.parameters()).dtype).removeprefix("torch."),
                "pooling": self._pooling,
                "prompt": ids,
                "dense": None if dense is None else sha256(dense.cpu().numpy().tobytes()).hexdigest(),
                "corpus": manifest.fingerprint,
                "text_tokens": config.corpus.row_tokens - len(ids),
            }
            self._stored = StoredVectors(Path(config.teacher.vectors), identity, teacher.encoder.shape.hidden_size)

    def settle(
        self,
        stream: RowStream,
        batches_from: BatchesFrom,
        rows_per_batch: int,
        stop_requested: Callable[[], StopReason],
    ) -> tuple[TeacherFunction, BatchesFrom]:
        """Return the function that stands for the teacher, and batches for it. Every rank must call it.

        Where vectors are kept, those that are missing are made now, by `rows_per_batch` rows.
        """
        stored = self._stored
        if stored is None:
            return self._teacher, batches_from
        VectorMaker(stored, stream, self._teacher, rows_per_batch, self._device).make(self._num_rows, stop_requested)
        frame = self._teacher.frame  # what is returned must not keep the teacher
        return stored_teacher, lambda position: with_vectors(batches_from(position), stored, frame)


class VectorMaker:
    """Makes the vectors that a run needs and the folder does not have, and keeps them; ranks share the blocks.

    Args:
        teacher: with the prompt that the rows of `stream` do not have.
        rows_per_batch: the most rows that the teacher reads at once.
    """

    def __init__(
        self, stored: StoredVectors, stream: RowStream, teacher: TextTeacher, rows_per_batch: int, device: torch.device
    ) -> None:
        self._stored, self._stream, self._teacher = stored, stream, teacher
        self._rows_per_batch, self._device = rows_per_batch, device

    def make(self, num_rows: int, stop_requested: Callable[[], StopReason]) -> None:
        """Make the vectors of the first `num_rows` rows of training, or of as many as there are before a stop.

        Every rank must call it. Raise ValueError on all ranks if another run makes vectors in the folder, one cannot be
        made, or the corpus cannot be read.
        """
        rank, world_size = dist.get_rank(), dist.get_world_size()
        on_rank_zero(self._stored.create)
        with _held(self._stored.folder / "lock"):
            shown = list(self._stream.shown(num_rows).items())
            total = sum(int(rows.sum()) for _, rows in shown)
            with Progress("the teacher's vectors", total, "texts") as progress:
                for start in range(0, len(shown), world_size):
                    error = None
                    try:
                        for block, rows in shown[start : start + world_size][rank : rank + 1]:
                            self._fill(block, rows)
                    except ValueError as one:
                        error = str(one)
                    outcomes = gather_objects((error, stop_requested()))
                    if errors := [one for one, _ in outcomes if one]:
                        raise ValueError(errors[0])
                    if any(reason for _, reason in outcomes):
                        return
                    progress.update(sum(int(rows.sum()) for _, rows in shown[start : start + world_size]))

    def _fill(self, block: int, wanted: np.ndarray) -> None:
        """Make the wanted rows, bool [rows], of a block that are missing."""
        vectors = self._stored.read(block, len(wanted))
        missing = np.flatnonzero(wanted & np.isnan(vectors[:, 0]))
        if not len(missing):
            return
        batch = next(iter(self._stream.rows_of([block])))
        lengths = batch["attention_mask"].sum(1).numpy()[missing]
        missing = missing[np.argsort(lengths, kind="stable")][
            np.count_nonzero(lengths <= self._teacher.frame.num_tokens) :
        ]
        for start in range(0, len(missing), self._rows_per_batch):
            rows = missing[start : start + self._rows_per_batch]
            part = without_padding({name: values[torch.from_numpy(rows)] for name, values in batch.items()})
            found = self._teacher({name: values.to(self._device) for name, values in part.items()}).text_vectors
            assert found is not None
            unit = torch.nn.functional.normalize(found, dim=-1).cpu()
            if not unit.isfinite().all():
                raise ValueError(f"teacher.vectors: block {block}: a vector of the teacher is not finite")
            vectors[rows] = unit.numpy()
        if len(missing):
            self._stored.write(block, vectors)


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Hold a lock on rank 0. Raise ValueError on every rank if another run holds it."""

    held: list[TextIO] = []

    def take() -> None:
        held.append(path.open("a"))
        try:
            if not try_lock(held[0]):
                raise ValueError(f"{path.parent}: another run makes vectors there; start again when it trains")
        except OSError as error:
            reason = f"its file system has no locks ({error.strerror})"
            warnings.warn(f"{path.parent}: {reason}; make sure that only one run makes vectors there", stacklevel=2)

    try:
        on_rank_zero(take)
        yield
    finally:
        for file in held:
            file.close()
