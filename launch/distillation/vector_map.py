"""What the teacher's files put between the pooling and its vectors."""

import warnings

from torch import Tensor

from launch.distillation.config import RunConfig
from pretrain.models.sentence_files import read_recipe
from pretrain.objectives.sentence import SentenceConfig


def read_vector_map(config: RunConfig) -> Tensor | None:
    """Return the linear map [D, D] after the teacher's pooling, or None if there is none or no objective wants it."""
    return _read(config)[0]


def warn_of_other_maps(config: RunConfig) -> None:
    """Warn if there is something else after the teacher's pooling, which is left out."""
    if reason := _read(config)[1]:
        message = "teacher.path: students learn the vectors before what follows the teacher's pooling"
        warnings.warn(f"{message}: {reason}", stacklevel=2)


def _read(config: RunConfig) -> tuple[Tensor | None, str]:
    objectives = [one for student in config.students for one in student.objective]
    if config.teacher is None or not any(isinstance(one, SentenceConfig) for one in objectives):
        return None, ""
    recipe, reason = read_recipe(config.teacher.path)
    found = recipe.projection
    if found is not None and found.shape[0] != found.shape[1]:
        return None, f"its vectors have width {found.shape[0]}, its states {found.shape[1]}"
    return found, reason
