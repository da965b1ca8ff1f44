"""A student's initial weights: embeddings and layers of the teacher, copied or projected, or a published student's.

Shapes: D and d hidden widths of teacher and student, N vectors. A map between the two widths is a matrix `basis`
[D, d]; vectors are rows and map by `x @ basis`. For projected embeddings it has orthonormal columns (rows if d > D).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pretrain.models.encoder import HuggingFaceModel
from pretrain.models.family import family_of
from pretrain.models.pretrained import load_encoder, read_shape
from pretrain.models.shape import EncoderShape, row_offset
from pretrain.models.structure import layers_of
from pretrain.objectives.layer_map import LayerMap, mapped_layers
from pretrain.settings import Problems, Settings
from pretrain.students.projection import project_layers

_SIZES = ("hidden_size", "num_attention_heads", "intermediate_size")
_TEACHER_SIZES = ("vocab_size", "max_row_tokens", "num_token_types", "embedding_size")
# In ELECTRA and ALBERT, the linear layer between factorised embeddings and the first layer
_FACTORS = ("embeddings_project", "encoder.embedding_hidden_mapping_in")


class InitConfig(Settings):
    """The student's initial weights.

    embeddings: "teacher" for the teacher's, projected on their principal components if the widths differ.
    layers: "scratch", or the teacher layers to use: every k-th ("uniform"), the last ones ("last"), or a list.
        Layers of the student's own sizes are copied; those of a wider teacher are projected (projection.py).
    student: the folder of a published student that gives all weights; the other keys must then be left out.
    """

    embeddings: Literal["teacher", "scratch"] = "teacher"
    layers: Literal["scratch"] | LayerMap = "scratch"
    student: str | None = None

    def problems(self, teacher: EncoderShape, student: EncoderShape) -> Problems:
        """Yield (key, message) for everything that does not fit this pair of models."""
        if self.student:
            if (self.embeddings, self.layers) != ("teacher", "scratch"):
                yield "init.student", "gives all weights, so embeddings and layers must be left out"
            yield from _published_problems(self.student, student)
        elif self.layers != "scratch":
            yield from self._layer_problems(self.layers, teacher, student)

    def _layer_problems(self, layers: LayerMap, teacher: EncoderShape, student: EncoderShape) -> Problems:
        wanted, available = student.num_layers, teacher.num_layers
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
        """Return whether layers are projected, which needs a sample of text: they are used and their sizes differ."""
        same = all(getattr(teacher, key) == getattr(student, key) for key in _SIZES)
        return self.student is None and self.layers != "scratch" and not same

    def teacher_layers(self, teacher: EncoderShape, student: EncoderShape) -> list[int]:
        """Return the numbers, from 1, of the teacher layers to use."""
        if self.student or self.layers == "scratch":
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


def initialize(
    model: HuggingFaceModel, teacher: HuggingFaceModel, config: InitConfig, sample: Mapping[str, Tensor] | None
) -> Tensor | None:
    """Set the weights of a student model. Return the map [D, d] between the hidden widths, or None if there is none.

    Args:
        model, teacher: Hugging Face encoders; the student's is changed.
        sample: a batch of text [B, L], needed if layers are projected. ValueError without it.
    """
    if config.student:
        model.load_state_dict(load_encoder(config.student, with_pooler=True).state_dict(), strict=False)
        return map_back(teacher, model)
    basis = _take_embeddings(model, teacher) if config.embeddings == "teacher" else None
    shapes = EncoderShape.of(teacher.config), EncoderShape.of(model.config)
    layers = config.teacher_layers(*shapes)
    if config.projects(*shapes):
        if sample is None or basis is None:
            raise ValueError("init.layers: projecting layers needs a sample of text and projected embeddings")
        project_layers(model, teacher, layers, basis, sample)
    else:
        stack = layers_of(teacher)
        for layer, number in zip(layers_of(model) if layers else (), layers, strict=True):
            # Not strict: the first layer of ModernBERT lacks the norm that the others have
            layer.load_state_dict(stack[number - 1].state_dict(), strict=shapes[0].family.is_bert)
    widths = tuple(shape.hidden_size for shape in shapes)
    if basis is None or basis.shape == widths:
        return basis
    # The map between factorised embeddings is not a map between hidden widths.
    return torch.eye(widths[0]) if widths[0] == widths[1] else None


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Make random numbers inside the block depend on the seed alone, and restore torch's generators afterwards."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@torch.no_grad()
def map_back(teacher: HuggingFaceModel, model: HuggingFaceModel) -> Tensor | None:
    """Return the map [D, d] from a published student's space to the teacher's.

    The least-squares map from the student's word embeddings to the teacher's: the identity while both are the same,
    but training turns a student's space away from its teacher's even if the widths are equal. If embeddings are
    factorised, and so not in the hidden width: the identity for equal widths, otherwise None.
    """
    widths = teacher.config.hidden_size, model.config.hidden_size
    target, given = (one.get_input_embeddings().weight for one in (teacher, model))
    if (target.shape[1], given.shape[1]) != widths:
        return torch.eye(widths[0]) if widths[0] == widths[1] else None
    num_words = min(len(target), len(given))  # tables may be longer than the vocabulary
    if torch.equal(target[:num_words], given[:num_words]):
        return torch.eye(widths[0])
    return torch.linalg.lstsq(given[:num_words], target[:num_words]).solution.T


@torch.no_grad()
def _take_embeddings(model: HuggingFaceModel, teacher: HuggingFaceModel) -> Tensor:
    """Set word, position and type embeddings from the teacher's. Return the map [D, d] between embedding widths.

    A narrower student gets coordinates on the principal components of the word embeddings, a wider one the same vectors
    rotated into its space. With equal widths all is copied, including the norm and the layer after factorised
    embeddings; otherwise the norm starts at the identity, because a rotation and an elementwise gain do not commute.
    A student of another family takes over what both have (see `_rows_of`); the rest stays random. If either has not
    BERT's embeddings, that is the word embeddings alone.
    """
    if not all(family_of(one.config.model_type).is_bert for one in (teacher, model)):
        theirs, ours = (one.get_input_embeddings().weight for one in (teacher, model))
        basis = embedding_basis(theirs, ours.shape[1])
        ours.copy_(theirs if basis.shape[0] == basis.shape[1] else theirs @ basis)
        return basis
    source, target = teacher.embeddings, model.embeddings
    basis = embedding_basis(source.word_embeddings.weight, target.word_embeddings.embedding_dim)
    same = basis.shape[0] == basis.shape[1]
    for name, table in target.named_children():
        if not hasattr(source, name):  # such as ERNIE's task types
            continue
        if isinstance(table, nn.Embedding):
            theirs, ours = _rows_of(name, teacher.config, model.config, getattr(source, name).weight, table.weight)
            ours.copy_(theirs if same else theirs @ basis)
        elif same and isinstance(table, nn.LayerNorm):
            table.load_state_dict(getattr(source, name).state_dict())
    own, given = dict(model.named_modules()), dict(teacher.named_modules())
    for name in _FACTORS:
        if name in own and name in given and own[name].weight.shape == given[name].weight.shape:
            own[name].load_state_dict(given[name].state_dict())
    return basis


def _rows_of(name: str, teacher: Any, student: Any, theirs: Tensor, ours: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of a teacher's table that a student takes over, and its own rows for them, as views.

    Families number positions from different rows on, and have one or two types of tokens: a second type that the
    teacher lacks starts as its first.
    """
    if name == "position_embeddings":
        theirs, ours = theirs[row_offset(teacher) :], ours[row_offset(student) :]
    if name == "token_type_embeddings" and len(theirs) < len(ours):
        return theirs[:1].expand(len(ours), -1), ours
    count = min(len(theirs), len(ours))
    return theirs[:count], ours[:count]


def embedding_basis(vectors: Tensor, width: int) -> Tensor:
    """Return a map [D, width] for vectors [N, D]: principal components, a random rotation if wider, or the identity."""
    dimensions = vectors.shape[1]
    if width == dimensions:
        return torch.eye(width)
    return narrow_basis(vectors, width) if width < dimensions else random_rotation(dimensions, width)


def narrow_basis(vectors: Tensor, width: int) -> Tensor:
    """Return an orthonormal basis [D, width] of the mean of the coordinates and the principal components of the rest.

    A layer norm subtracts the mean of the coordinates. The basis is rotated so that the student's mean direction is the
    teacher's: its norms then remove the same direction and no other.
    """
    dimensions = vectors.shape[1]
    mean = torch.full((dimensions, 1), dimensions**-0.5, dtype=vectors.dtype)
    rest = principal_components(vectors - vectors @ mean @ mean.T, width - 1)
    # Already orthonormal, unless the vectors span fewer directions than requested
    directions, signs = torch.linalg.qr(torch.cat([mean, rest], 1))
    # The reflection that maps the first axis to the mean of the student's coordinates
    axis = torch.eye(width, dtype=vectors.dtype)[:, :1] - width**-0.5
    reflection = torch.eye(width, dtype=vectors.dtype) - 2 * axis @ axis.T / axis.square().sum()
    return directions * signs.diagonal().sign() @ reflection


def principal_components(vectors: Tensor, num_components: int) -> Tensor:
    """Return an orthonormal basis [D, num_components] of the directions of largest variance of vectors [N, D].

    Raise ValueError if there are more components than dimensions.
    """
    if num_components > vectors.shape[1]:
        message = f"embeddings of width {vectors.shape[1]} do not have {num_components} principal components"
        raise ValueError(message)
    centred = vectors.double() - vectors.double().mean(0)
    _, directions = torch.linalg.eigh(centred.T @ centred)  # eigenvalues ascend
    directions = directions[:, -num_components:].flip(1)
    # Fix the arbitrary signs of eigenvectors, so that all machines start from the same student.
    signs = directions.gather(0, directions.abs().argmax(0, keepdim=True)).sign()
    return (directions * signs).to(vectors.dtype)


def random_rotation(width: int, wider: int) -> Tensor:
    """Return a random matrix [width, wider] with orthonormal rows, which preserves lengths and angles."""
    return torch.linalg.qr(torch.randn(wider, width, dtype=torch.float64)).Q.T.float()
