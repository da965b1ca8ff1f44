"""Which teacher layer each student layer is matched with: uniform, last, or a list."""

from typing import Literal

from pydantic import PositiveInt

from pretrain.models.encoder import EncoderShape
from pretrain.settings import Problems

LayerMap = Literal["uniform", "last"] | list[PositiveInt]


def mapped_layers(layer_map: LayerMap, num_teacher_layers: int, num_student_layers: int) -> list[int]:
    """TinyBERT's g(m) for m = 1 to the student's layers: every k-th teacher layer, the last ones or the listed ones."""
    if isinstance(layer_map, list):
        return list(layer_map)
    if layer_map == "last":
        return list(range(num_teacher_layers - num_student_layers + 1, num_teacher_layers + 1))
    step = num_teacher_layers // num_student_layers
    return [step * layer for layer in range(1, num_student_layers + 1)]


def layer_map_problems(layers: LayerMap, teacher: EncoderShape, student: EncoderShape) -> Problems:
    """Why a map cannot give each student layer a teacher layer."""
    wanted, most = student.num_layers, teacher.num_layers
    if wanted > most:
        yield "layer_map", f"a student of {wanted} layers cannot be mapped onto a teacher of {most}"
    elif layers == "uniform" and most % wanted:
        yield "layer_map", f"uniform needs the teacher's {most} layers to be a multiple of {wanted}; list them instead"
    if isinstance(layers, list) and len(layers) != wanted:
        yield "layer_map", f"wants {wanted} teacher layers, one for each student layer, got {len(layers)}"
    if isinstance(layers, list) and max(layers, default=0) > most:
        yield "layer_map", f"the teacher has {most} layers, got {max(layers)}"
