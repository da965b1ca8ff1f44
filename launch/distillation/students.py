"""The students of a run with their initial weights, from the teacher and the first rows of the corpus."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

import torch
import torch.distributed as dist

from corpus.rows.stream import RowStream
from launch.distillation.config import RunConfig
from pretrain.checkpoints.checkpoint import checkpoint_folders
from pretrain.models.encoder import HuggingFaceModel, without_padding
from pretrain.models.shape import EncoderShape
from pretrain.models.teacher import TeacherFunction
from pretrain.models.vocabulary_head import VocabularyHead
from pretrain.objectives.vocabulary import with_places
from pretrain.progress import Progress
from pretrain.students.config import StudentConfig
from pretrain.students.init_config import InitConfig
from pretrain.students.student import Student, build_student
from pretrain.training.micro_batches import to_device

SAMPLE_TOKENS = 4096  # for fitting the norms of projected layers; four times as many give no better students
_REWIRING_BATCHES = 8  # of these tokens, for the importance of neurons: its absolute value is taken in each


@Progress("building the students")
def build_students(
    config: RunConfig,
    teacher: HuggingFaceModel,
    head: VocabularyHead | None,
    stream: RowStream,
    run: Path,
    pad_token_id: int,
) -> list[Student]:
    """Build the students with their initial weights on rank 0. Layers are chosen and projected by the first rows."""
    shape, sample = EncoderShape.of(teacher.config), None
    settings = [skip_costly_init(student, run) for student in config.students]
    for one in settings:
        if note := one.init.notes(shape, one.shape(shape)):
            print(f"[rank 0] {one.name} {note}", file=sys.stderr, flush=True)
    readers = [one.name for one in settings if one.init.reads_text(shape, one.shape(shape))]
    if readers:
        with closing(stream.batches(0, max(1, SAMPLE_TOKENS // config.corpus.row_tokens))) as batches:
            sample = next(batches)
        message = f"choosing and projecting the teacher's layers for {', '.join(readers)}"
        print(f"[rank 0] {message}, on {sample['input_ids'].numel():,} tokens", file=sys.stderr, flush=True)
    seed = config.training.seed
    students = [build_student(one, teacher, seed, sample, head, pad_token_id=pad_token_id) for one in settings]
    if dist.get_rank() == 0:
        for note in layer_notes(students, shape):
            print(f"[rank 0] {note}", file=sys.stderr, flush=True)
    return students


def layer_notes(students: Sequence[Student], teacher: EncoderShape) -> Iterator[str]:
    """Say whose relations students learn, of a teacher in some of whose layers tokens attend only to those near."""
    for student in students if teacher.sliding_layers else ():
        read = sorted(student.teacher_reads.projections | student.teacher_reads.rotated)
        if read:
            which = ", ".join(map(str, read))
            yield (
                f"{student.name} learns relations of the teacher's layer {which} of {teacher.num_layers}, where every "
                "token attends to all"
            )


def skip_costly_init(student: StudentConfig, run: Path) -> StudentConfig:
    """Return the student's settings, with random weights if a checkpoint or rank 0's broadcast will overwrite them.

    Projecting a large teacher's layers takes minutes, and longer on every rank of a host at once.
    """
    if _starts_here(student.name, run):
        return student
    return student.model_copy(update={"init": InitConfig(embeddings="scratch")})


def _starts_here(student: str, run: Path) -> bool:
    """Whether this rank's initial weights of a student count: those of rank 0, without a checkpoint."""
    is_saved = checkpoint_folders(run / "checkpoints") and (run / "start" / student).is_dir()
    return dist.get_rank() == 0 and not is_saved


def rewire_students(
    config: RunConfig, students: Sequence[Student], teacher: TeacherFunction, stream: RowStream, run: Path,
    device: torch.device,
) -> None:  # fmt: skip
    """Sort the neurons of elastic students on the first rows, where this rank's initial weights count."""
    elastic = [one for one in students if one.inner and one.inner.narrows and _starts_here(one.name, run)]
    if not elastic:
        return
    rows = max(1, SAMPLE_TOKENS // (_REWIRING_BATCHES * config.corpus.row_tokens))
    with closing(stream.batches(0, rows)) as batches:
        read = [without_padding(batch) for batch in islice(batches, _REWIRING_BATCHES)]
    for student in elastic:
        places = [with_places(batch) if student.reads_places else batch for batch in read]
        student.to(device).rewire(teacher, [to_device(batch, device) for batch in places])
