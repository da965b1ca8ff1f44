"""Vectors of whole texts from the states of their tokens, as sentence-transformers makes and records them."""

import json
from pathlib import Path
from typing import Literal

from torch import Tensor

Pooling = Literal["mean", "first", "last"]
# The names of these in files of sentence-transformers: flags until version 5, and one key since
POOLING_FLAGS = {"mean": "mean_tokens", "first": "cls_token", "last": "lasttoken"}
_POOLING_MODES = {"mean": "mean", "first": "cls", "last": "lasttoken"}


def pool(states: Tensor, real: Tensor, pooling: Pooling) -> Tensor:
    """Return the vector [B, D] of each text, from its states [B, L, D] and the mask of its real tokens [B, L]."""
    if pooling == "first":
        return states[:, 0]
    if pooling == "last":
        places = (real.sum(1) - 1).view(-1, 1, 1).expand(-1, 1, states.shape[-1])
        return states.gather(1, places).squeeze(1)
    weights = real / real.sum(1, keepdim=True)
    return (states * weights.unsqueeze(-1)).sum(1)


def recorded_pooling(folder: Path) -> str | None:
    """Return how the vectors of a model are pooled, from its sentence-transformers files.

    None if the folder has none; "another way" for one that is not in `Pooling`, or several at once.
    """
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_bytes())
        flags = {kind for kind, name in POOLING_FLAGS.items() if values.get(f"pooling_mode_{name}")}
        flags |= {kind for kind, name in _POOLING_MODES.items() if values.get("pooling_mode") == name}
        others = [key for key, on in values.items() if key.startswith("pooling_mode_") and on is True]
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path}: not a configuration of pooling: {error}") from error
    return flags.pop() if len(flags) == 1 and len(others) <= 1 else "another way"
