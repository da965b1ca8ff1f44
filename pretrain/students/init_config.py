"""The configuration of a student's initial weights."""

from pathlib import Path
from typing import Literal

from pretrain.models.pretrained import read_shape
from pretrain.models.shape import EncoderShape
from pretrain.objectives.layer_map import LayerMap, mapped_layers
from pretrain.settings import Problems, Settings

_SIZES = ("hidden_size", "num_attention_heads", "intermediate_size")
_TEACHER_SIZES = ("vocab_size", "max_row_tokens", "num_token_types", "embedding_size")


class InitConfig(Settings):
    """The student's initial weights.

    embeddings: "teacher" for the teacher's, projected if the widths differ.
    layers: "scratch", or the teacher layers to use: every k-th ("uniform"), the last ones ("last"), those that change
        their input most on text ("importance"), or a list. Layers of the student's own sizes are copied; those of a
        wider teacher are projected (projection.py).
    channels, heads, neurons: what a narrower student keeps of its teacher's.
    student: the folder of a published student that gives all weights; the other keys must then be left out.
    """

    embeddings: Literal["teacher", "scratch"] = "teacher"
    layers: Literal["scratch", "importance"] | LayerMap = "scratch"
    channels: Literal["components", "activations"] = "components"  # principal ones, or the coordinates largest on text
    heads: Literal["weights", "activations"] = "weights"  # of largest output matrix, or of largest output on text
    neurons: Literal["contributions", "activations"] = "contributions"  # most for what follows, or largest, on text
    student: str | None = None

    def problems(self, teacher: EncoderShape, student: EncoderShape) -> Problems:
        """Yield (key, message) for everything that does not fit this pair of models."""
        if self.student:
            if self != InitConfig(student=self.student):
                yield "init.student", "gives all weights, so the other keys of init must be left out"
            yield from _published_problems(self.student, student)
            return
        if self.layers != "scratch":
            yield from self._layer_problems(teacher, student)
        yield from self._choice_problems(teacher, student)

    def _choice_problems(self, teacher: EncoderShape, student: EncoderShape) -> Problems:
        """Yield where there is nothing to choose among."""
        for key, size in (("heads", "num_attention_heads"), ("neurons", "intermediate_size")):
            few = getattr(student, size) < getattr(teacher, size)
            if getattr(self, key) == "activations" and not (few and self.projects(teacher, student)):
                yield (
                    f"init.{key}",
                    f"chooses {key} of projected layers for a student with fewer: leave it out, or give init.layers "
                    f"and {size} below the teacher's {getattr(teacher, size)}",
                )
        if self.channels == "activations":
            pair = (teacher, student)
            narrower = student.hidden_size < teacher.hidden_size and self.embeddings == "teacher"
            if not narrower or any(one.embedding_size or not one.family.is_bert for one in pair):
                yield (
                    "init.channels",
                    "chooses coordinates of the teacher's embeddings for a narrower student, where both are BERT's and "
                    "as wide as the layers: leave it out",
                )

    def _layer_problems(self, teacher: EncoderShape, student: EncoderShape) -> Problems:
        layers, wanted, available = self.layers, student.num_layers, teacher.num_layers
        if not _compute_alike(teacher, student):
            yield "init.layers", _other_layers(teacher, student)
            return
        for owner, one in (("teacher", teacher), ("student", student)):
            if one.family.shares_layers:
                yield "init.layers", f"must be scratch because the layers of an ALBERT {owner} share their weights"
                return
        if isinstance(layers, list) and len(layers) != wanted:
            yield "init.layers", f"must list {wanted} teacher layers, got {len(layers)}"
        elif isinstance(layers, list) and max(layers) > available:
            yield "init.layers", f"the teacher has {available} layers, got {max(layers)}"
        elif wanted > available or (layers == "uniform" and available % wanted):
            message = f"{layers} cannot choose {wanted} of the teacher's {available} layers; list layers instead"
            yield "init.layers", message
        if self.projects(teacher, student) or teacher.embedding_size != student.embedding_size:
            yield from self._projection_problems(teacher, student)

    def _projection_problems(self, teacher: EncoderShape, student: EncoderShape) -> Problems:
        if self.embeddings != "teacher":
            yield "init.layers", "need projected embeddings to be projected: init.embeddings must be teacher"
        for one in (teacher, student):
            if one.embedding_size and not one.embedding_size == teacher.hidden_size == student.hidden_size:
                yield (
                    "init.layers",
                    f"{one.model_type}'s embeddings have their own width, {one.embedding_size}, so they give no map to "
                    "project layers by; use scratch, or a student with the teacher's sizes",
                )
                return
        for key in _SIZES:
            if getattr(student, key) > getattr(teacher, key):
                most, got = getattr(teacher, key), getattr(student, key)
                yield "init.layers", f"projection only makes layers narrower: the teacher's {key} is {most}, got {got}"
        most, got = (one.hidden_size // one.num_attention_heads for one in (teacher, student))
        if got > most:
            message = f"projection only makes heads narrower: the teacher's have width {most}, the student's {got}"
            yield "init.layers", message

    def projects(self, teacher: EncoderShape, student: EncoderShape) -> bool:
        """Return whether layers are projected: they are used and their sizes differ."""
        same = all(getattr(teacher, key) == getattr(student, key) for key in _SIZES)
        return self.student is None and self.layers != "scratch" and not same

    def reads_text(self, teacher: EncoderShape, student: EncoderShape) -> bool:
        """Return whether a sample of text is needed: to project layers, or to choose what is kept."""
        return self.projects(teacher, student) or self.layers == "importance" or self.channels == "activations"

    def teacher_layers(self, teacher: EncoderShape, student: EncoderShape) -> list[int]:
        """Return the numbers, from 1, of the teacher layers to use; none if they are chosen by text."""
        if self.student or self.layers == "scratch" or self.layers == "importance":
            return []
        return mapped_layers(self.layers, teacher.num_layers, student.num_layers)

    def notes(self, teacher: EncoderShape, student: EncoderShape) -> str | None:
        """Say what of the teacher a student of another kind cannot start with, if anything."""
        if self.student or self.embeddings != "teacher" or (teacher.family.is_bert and student.family.is_bert):
            return None
        if teacher.model_type == student.model_type and self.layers != "scratch":
            return None
        return (
            f"starts with the word embeddings of its {teacher.model_type} teacher; positions and layers of a "
            f"{student.model_type} model start at random"
        )


def _compute_alike(teacher: EncoderShape, student: EncoderShape) -> bool:
    """Whether the student can have layers of the teacher: both are BERT's, or of one family and of equal sizes."""
    if teacher.family.is_bert and student.family.is_bert:
        return True
    same = all(getattr(teacher, key) == getattr(student, key) for key in (*_SIZES, "head_size"))
    return same and teacher.model_type == student.model_type


def _other_layers(teacher: EncoderShape, student: EncoderShape) -> str:
    if teacher.model_type == student.model_type:
        return f"must be scratch unless the student has the teacher's sizes: layers of {teacher.model_type} are copied"
    return (
        f"must be scratch: layers of {student.model_type} compute otherwise than the teacher's of {teacher.model_type}"
    )


def _published_problems(folder: str, student: EncoderShape) -> Problems:
    if not Path(folder).is_dir():
        yield "init.student", f"there is no folder {folder!r}"
        return
    try:
        found = read_shape(folder)
    except ValueError as error:
        yield "init.student", str(error)
        return
    for key in ("model_type", "num_layers", *_SIZES):
        if getattr(found, key) != getattr(student, key):
            yield "init.student", f"{folder!r} has {key} {getattr(found, key)}, got {getattr(student, key)}"
    for key in _TEACHER_SIZES:
        if getattr(found, key) != getattr(student, key):
            yield "init.student", f"{folder!r} has {key} {getattr(found, key)}, this run {getattr(student, key)}"
