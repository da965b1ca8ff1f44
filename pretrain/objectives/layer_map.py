"""Layer maps: which teacher layer each student layer learns from (uniform, last, or a list)."""

from typing import Literal

from pydantic import PositiveInt

from pretrain.models.shape import EncoderShape
from pretrain.settings import Problems

LayerMap = Literal["uniform", "last"] | list[PositiveInt]


def mapped_layers(layer_map: LayerMap, num_teacher_layers: int, num_student_layers: int) -> list[int]:
    """Return the teacher layer, from 1, of each student layer: TinyBERT's g(m) for m = 1 to the student's layers.

    "uniform" takes every k-th teacher layer, "last" the last ones; a list is returned unchanged.
    """
    if isinstance(layer_map, list):
        return list(layer_map)
    if layer_map == "last":
        return list(range(num_teacher_layers - num_student_layers + 1, num_teacher_layers + 1))
    step = num_teacher_layers // num_student_layers
    return [step * layer for layer in range(1, num_student_layers + 1)]


def layer_map_problems(layers: LayerMap, teacher: EncoderShape, student: EncoderShape) -> Problems:
    """Yield why a map does not give every student layer a teacher layer, if so."""
    wanted, available = student.num_layers, teacher.num_layers
    if wanted > available:
        yield "layer_map", f"a student with {wanted} layers cannot be mapped to a teacher with {available}"
    elif layers == "uniform" and available % wanted:
        message = f"uniform needs the teacher's {available} layers to be a multiple of {wanted}; list layers instead"
        yield "layer_map", message
    if isinstance(layers, list) and len(layers) != wanted:
        yield "layer_map", f"must list {wanted} teacher layers, one for each student layer, got {len(layers)}"
    if isinstance(layers, list) and max(layers, default=0) > available:
        yield "layer_map", f"the teacher has {available} layers, got {max(layers)}"
