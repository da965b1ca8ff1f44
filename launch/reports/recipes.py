"""How the vectors of a report's models are made, and which of them stand in the teacher's space."""

import json
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pretrain.models.sentence_files import VectorRecipe, read_recipe


def read_own_recipe(name: str, folder: str) -> VectorRecipe:
    """Return how a model's vectors are made. Warn if its files say it in a way that is not known here."""
    recipe, problem = read_recipe(folder)
    if problem:
        warnings.warn(f"{name}: {problem}; the mean of its last hidden states is taken", stacklevel=2)
    return recipe


def foreign_spaces(
    folders: Mapping[str, str], models: Mapping[str, tuple[Any, Any]], recipes: Mapping[str, VectorRecipe]
) -> dict[str, str]:
    """Return by name why a model's vectors are not in the space of the first one's; models whose are in it left out."""
    teacher, *others = folders
    width = _width(models[teacher][0], recipes[teacher])
    reasons = {}
    for name in others:
        own = _width(models[name][0], recipes[name])
        if not _learned_vectors(folders[name]):
            reasons[name] = "it was not trained by the objective sentence"
        elif own != width:
            reasons[name] = f"its vectors have {own} dimensions, those of {teacher} {width}"
    return reasons


def _width(model: Any, recipe: VectorRecipe) -> int:
    return int(model.config.hidden_size) if recipe.projection is None else len(recipe.projection)


def _learned_vectors(folder: str) -> bool:
    with suppress(OSError, ValueError, KeyError, TypeError):
        made = json.loads((Path(folder) / "distillation.json").read_text("utf-8"))
        return any(one["type"] == "sentence" for one in made["objective"])
    return False
