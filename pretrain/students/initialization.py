"""A student's initial weights: embeddings and layers of the teacher, copied or projected, or a published student's.

Shapes: D and d hidden widths of teacher and student, N vectors. A map between the two widths is a matrix `basis`
[D, d]; vectors are rows and map by `x @ basis`. For projected embeddings it has orthonormal columns (rows if d > D).
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.models.encoder import HuggingFaceModel
from pretrain.models.family import family_of
from pretrain.models.pretrained import load_encoder
from pretrain.models.shape import EncoderShape, row_offset
from pretrain.models.structure import layers_of
from pretrain.students.importance import important_channels, important_layers
from pretrain.students.init_config import InitConfig
from pretrain.students.projection import project_layers

# In ELECTRA and ALBERT, the linear layer between factorised embeddings and the first layer
_FACTORS = ("embeddings_project", "encoder.embedding_hidden_mapping_in")


def initialize(
    model: HuggingFaceModel, teacher: HuggingFaceModel, config: InitConfig, sample: Mapping[str, Tensor] | None
) -> Tensor | None:
    """Set the weights of a student model. Return the map [D, d] between the hidden widths, or None if there is none.

    Args:
        model, teacher: Hugging Face encoders; the student's is changed.
        sample: a batch of text [B, L], needed if `config.reads_text`. ValueError without it.
    """
    if config.student:
        model.load_state_dict(load_encoder(config.student, with_pooler=True).state_dict(), strict=False)
        return map_back(teacher, model)
    shapes = EncoderShape.of(teacher.config), EncoderShape.of(model.config)
    if config.reads_text(*shapes) and sample is None:
        raise ValueError("init: projecting layers and choosing by activations need a sample of text")
    text = sample or {}
    basis, layers = None, config.teacher_layers(*shapes)
    if config.channels == "activations":
        basis = important_channels(teacher, text, shapes[1].hidden_size)
    if config.embeddings == "teacher":
        basis = _take_embeddings(model, teacher, basis)
    if config.layers == "importance":
        layers = important_layers(teacher, text, shapes[1].num_layers)
        print(f"[rank 0] starts from layers {', '.join(map(str, layers))} of its teacher", file=sys.stderr, flush=True)
    if config.projects(*shapes):
        if basis is None:
            raise ValueError("init.layers: projecting layers needs projected embeddings")
        active = [name for name in ("heads", "neurons") if getattr(config, name) == "activations"]
        project_layers(model, teacher, layers, basis, text, active)
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
    # The last bits depend on where memory lies: in float64 they are rounded away, and a stage begins with the same bits
    return torch.linalg.lstsq(given[:num_words].double(), target[:num_words].double()).solution.T.float()


@torch.no_grad()
def _take_embeddings(model: HuggingFaceModel, teacher: HuggingFaceModel, basis: Tensor | None) -> Tensor:
    """Set word, position and type embeddings from the teacher's. Return the map [D, d] between embedding widths.

    A narrower student gets coordinates on the principal components of the word embeddings, or by `basis` if given, a
    wider one the same vectors rotated into its space. With equal widths all is copied, including the norm and the layer
    after factorised embeddings; otherwise the norm starts at the identity, because a rotation and an elementwise gain
    do not commute.
    A student of another family takes over what both have (see `_rows_of`); the rest stays random. If either has not
    BERT's embeddings, that is the word embeddings alone.
    """
    if not all(family_of(one.config.model_type).is_bert for one in (teacher, model)):
        theirs, ours = (one.get_input_embeddings().weight for one in (teacher, model))
        basis = embedding_basis(theirs, ours.shape[1])
        ours.copy_(theirs if basis.shape[0] == basis.shape[1] else theirs @ basis)
        return basis
    source, target = teacher.embeddings, model.embeddings
    if basis is None:
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
