"""Where a student's weights start: embeddings and layers of the teacher, copied or projected, or a published student.

Shapes: D and d hidden widths of teacher and student, N vectors. A map between the two widths is one matrix [D, d] and
vectors are rows, which go over by `x @ basis`. That of projected embeddings has orthonormal columns (rows where d > D).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from pretrain.models.encoder import EncoderShape, HuggingFaceModel
from pretrain.models.pretrained import load_encoder, read_shape
from pretrain.objectives.layer_map import LayerMap, mapped_layers
from pretrain.settings import Problems, Settings
from pretrain.students.projection import project_layers

_SIZES = ("hidden_size", "num_attention_heads", "intermediate_size")
_OF_THE_TEACHER = ("vocab_size", "max_row_tokens", "num_token_types", "embedding_size")
# Where ELECTRA and ALBERT keep the linear layer between their factorised embeddings and the first layer.
_FACTORS = ("embeddings_project", "encoder.embedding_hidden_mapping_in")


class InitConfig(Settings):
    """Where the student's weights start.

    embeddings: "teacher" takes the teacher's, projected on their principal components where the widths differ.
    layers: "scratch", or the teacher layers to take: every k-th ("uniform"), the last ones ("last"), or those listed.
        Layers of the student's own sizes are copied; those of a wider teacher are projected (projection.py).
    student: the folder of a published student; all weights are its own, so the other keys must be left out.
    """

    embeddings: Literal["teacher", "scratch"] = "teacher"
    layers: Literal["scratch"] | LayerMap = "scratch"
    student: str | None = None

    def problems(self, teacher: EncoderShape, student: EncoderShape) -> Problems:
        """(key, message) of everything that cannot work for this pair of models."""
        if self.student:
            if (self.embeddings, self.layers) != ("teacher", "scratch"):
                yield "init.student", "gives all weights, so embeddings and layers must not be given beside it"
            yield from _published_problems(self.student, student)
        elif self.layers != "scratch":
            yield from self._layer_problems(self.layers, teacher, student)

    def _layer_problems(self, layers: LayerMap, teacher: EncoderShape, student: EncoderShape) -> Problems:
        wanted, most = student.num_layers, teacher.num_layers
        if teacher.model_type == "albert":
            yield "init.layers", "an ALBERT teacher shares its layers: there is none to choose"
            return
        if isinstance(layers, list) and len(layers) != wanted:
            yield "init.layers", f"wants {wanted} teacher layers, got {len(layers)}"
        elif isinstance(layers, list) and max(layers) > most:
            yield "init.layers", f"the teacher has {most} layers, got {max(layers)}"
        elif wanted > most or (layers == "uniform" and most % wanted):
            yield "init.layers", f"{layers} cannot take {wanted} of the teacher's {most} layers; list them instead"
        if self.projects(teacher, student):
            yield from self._projection_problems(teacher, student)

    def _projection_problems(self, teacher: EncoderShape, student: EncoderShape) -> Problems:
        if self.embeddings != "teacher":
            yield "init.layers", "projected layers need projected embeddings: init.embeddings must be teacher"
        if teacher.embedding_size and not teacher.embedding_size == teacher.hidden_size == student.hidden_size:
            yield (
                "init.layers",
                f"{teacher.model_type}'s embeddings are {teacher.embedding_size} wide whatever the layers are, so they "
                "give no map to project layers by; take layers of the teacher's own sizes, or scratch",
            )
            return
        for key in _SIZES:
            if getattr(student, key) > getattr(teacher, key):
                most, got = getattr(teacher, key), getattr(student, key)
                yield "init.layers", f"projecting makes layers narrower: the teacher's {key} is {most}, got {got}"
        most, got = (one.hidden_size // one.num_attention_heads for one in (teacher, student))
        if got > most:
            yield "init.layers", f"projecting makes heads narrower: the teacher's are {most} wide, the student's {got}"

    def projects(self, teacher: EncoderShape, student: EncoderShape) -> bool:
        """Whether layers are taken and their sizes differ, so that text is needed to fit them."""
        same = all(getattr(teacher, key) == getattr(student, key) for key in _SIZES)
        return self.student is None and self.layers != "scratch" and not same

    def teacher_layers(self, teacher: EncoderShape, student: EncoderShape) -> list[int]:
        """Numbers, from 1, of the teacher layers to take."""
        if self.student or self.layers == "scratch":
            return []
        return mapped_layers(self.layers, teacher.num_layers, student.num_layers)


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
    for key in _OF_THE_TEACHER:
        if getattr(found, key) != getattr(student, key):
            yield "init.student", f"{folder!r} has {key} {getattr(found, key)}, the teacher {getattr(student, key)}"


def initialize(
    model: HuggingFaceModel, teacher: HuggingFaceModel, config: InitConfig, sample: Mapping[str, Tensor] | None
) -> Tensor | None:
    """Sets the weights of a student model; gives the map [D, d] between the hidden widths where embeddings tell one.

    `sample` is a batch of text [B, L], needed where layers are projected.
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
        for layer, number in zip(model.encoder.layer if layers else (), layers, strict=True):
            layer.load_state_dict(teacher.encoder.layer[number - 1].state_dict())
    widths = tuple(shape.hidden_size for shape in shapes)
    if basis is None or basis.shape == widths:
        return basis
    # Where embeddings are factorised their map is not one between hidden widths.
    return torch.eye(widths[0]) if widths[0] == widths[1] else None


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """What is drawn inside is a function of the seed alone, and nothing outside notices."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@torch.no_grad()
def map_back(teacher: HuggingFaceModel, model: HuggingFaceModel) -> Tensor | None:
    """Map [D, d] to a teacher from a student with weights of its own: the identity, or what best gives the teacher's
    word embeddings back from the student's. None where they are factorised, and so in no hidden width."""
    widths = teacher.config.hidden_size, model.config.hidden_size
    if widths[0] == widths[1]:
        return torch.eye(widths[0])
    target, given = (one.embeddings.word_embeddings.weight for one in (teacher, model))
    if (target.shape[1], given.shape[1]) != widths:
        return None
    num_words = min(len(target), len(given))  # tables may be longer than the vocabulary
    return torch.linalg.lstsq(given[:num_words], target[:num_words]).solution.T


@torch.no_grad()
def _take_embeddings(model: HuggingFaceModel, teacher: HuggingFaceModel) -> Tensor:
    """Word, position and type embeddings of the teacher, in the student's width; returns the map [D, width].

    A narrower student takes their coordinates on the principal components of the word embeddings, a wider one the
    same vectors rotated into its space. With equal widths they are copied, normalisation included, and with what
    brings factorised ones to the hidden width; otherwise the norm starts at the identity, since a rotation and an
    elementwise gain do not commute.
    """
    source, target = teacher.embeddings, model.embeddings
    basis = embedding_basis(source.word_embeddings.weight, target.word_embeddings.embedding_dim)
    same = basis.shape[0] == basis.shape[1]
    for name, table in target.named_children():
        if isinstance(table, nn.Embedding):
            weight = getattr(source, name).weight
            table.weight.copy_(weight if same else weight @ basis)
        elif same and isinstance(table, nn.LayerNorm):
            table.load_state_dict(getattr(source, name).state_dict())
    ours, theirs = dict(model.named_modules()), dict(teacher.named_modules())
    for name in _FACTORS:
        if name in ours and name in theirs and ours[name].weight.shape == theirs[name].weight.shape:
            ours[name].load_state_dict(theirs[name].state_dict())
    return basis


def embedding_basis(vectors: Tensor, width: int) -> Tensor:
    """Map [D, width] from vectors [N, D]: principal components, a random rotation where wider, the identity."""
    dimensions = vectors.shape[1]
    if width == dimensions:
        return torch.eye(width)
    return narrow_basis(vectors, width) if width < dimensions else random_rotation(dimensions, width)


def narrow_basis(vectors: Tensor, width: int) -> Tensor:
    """Orthonormal basis [D, width] of the mean of the coordinates and the principal components of the rest.

    A layer norm takes away the mean of the coordinates. Turned so that the student's mean is the teacher's, its norms
    take away the same direction, and no other.
    """
    dimensions = vectors.shape[1]
    mean = torch.full((dimensions, 1), dimensions**-0.5, dtype=vectors.dtype)
    rest = principal_components(vectors - vectors @ mean @ mean.T, width - 1)
    # Orthonormal as they are, unless the vectors have fewer directions than are asked for
    directions, signs = torch.linalg.qr(torch.cat([mean, rest], 1))
    # The reflection that takes the first axis to the mean of the student's coordinates
    axis = torch.eye(width, dtype=vectors.dtype)[:, :1] - width**-0.5
    reflection = torch.eye(width, dtype=vectors.dtype) - 2 * axis @ axis.T / axis.square().sum()
    return directions * signs.diagonal().sign() @ reflection


def principal_components(vectors: Tensor, num_components: int) -> Tensor:
    """Orthonormal basis [D, num_components] of the directions of largest variance of vectors [N, D].

    Raises ValueError when more components are asked for than there are dimensions.
    """
    if num_components > vectors.shape[1]:
        raise ValueError(f"embeddings of width {vectors.shape[1]} have no {num_components} principal components")
    centred = vectors.double() - vectors.double().mean(0)
    _, directions = torch.linalg.eigh(centred.T @ centred)  # eigenvalues ascend
    directions = directions[:, -num_components:].flip(1)
    # The sign of an eigenvector is arbitrary: fix it, or two machines would start from different students.
    signs = directions.gather(0, directions.abs().argmax(0, keepdim=True)).sign()
    return (directions * signs).to(vectors.dtype)


def random_rotation(width: int, wider: int) -> Tensor:
    """Random [width, wider] with orthonormal rows: it keeps every length and angle."""
    return torch.linalg.qr(torch.randn(wider, width, dtype=torch.float64)).Q.T.float()
