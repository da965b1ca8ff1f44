"""What a model's sentence-transformers files say: how the vector of a text is made, and which prompts stand before it.

Shapes: D hidden width, D_out width of the vectors.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from safetensors.torch import load_file
from torch import Tensor
from transformers.utils import cached_file

from pretrain.models.pooling import Pooling, recorded_pooling

_PROMPTS = "config_sentence_transformers.json"
_IDENTITY = "torch.nn.modules.linear.Identity"


@dataclass(frozen=True)
class Prompts:
    """The prompts of a model by name, and the one that is used where none is named."""

    texts: Mapping[str, str] = field(default_factory=dict)
    default: str | None = None

    def of(self, *names: str) -> str:
        """Return the first of these prompts that there is, else the default one, else no text."""
        return next((self.texts[name] for name in [*names, self.default] if name and name in self.texts), "")


@dataclass(frozen=True)
class VectorRecipe:
    """How the vector of a text is made of its last hidden states.

    Attributes:
        pooling: by which states become one vector.
        projection: a linear map [D_out, D] of that vector, or None.
        prompts: what stands before texts.
        is_recorded: whether the model's files say all this; else the vector is the mean.
    """

    pooling: Pooling = "mean"
    projection: Tensor | None = None
    prompts: Prompts = Prompts()
    is_recorded: bool = False


MEAN = VectorRecipe()


def recorded_file(model: str, name: str) -> Path | None:
    """Return a file of a folder, or of a model on a hub; None if there is none."""
    if Path(model).is_dir():
        path = Path(model) / name
        return path if path.is_file() else None
    found = cached_file(
        model, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
    )
    return Path(found) if found else None


def read_prompts(model: str) -> Prompts:
    """Return the prompts that a model's files record. Raise ValueError naming the file if it is damaged."""
    path = recorded_file(model, _PROMPTS)
    if path is None:
        return Prompts()
    values = _read(path)
    texts, default = values.get("prompts") or {}, values.get("default_prompt_name")
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise ValueError(f'{path}: prompts must be texts by their names, such as {{"query": "query: "}}, got {texts!r}')
    if default is not None and default not in texts:
        raise ValueError(
            f"{path}: default_prompt_name is {default!r}, but the prompts are {', '.join(texts) or 'none'}"
        )
    return Prompts(texts, default)


def leaves_prompt_out(model: str) -> bool:
    """Return whether the model's pooling leaves the tokens of a prompt out."""
    path = recorded_file(model, "1_Pooling/config.json")
    return path is not None and _read(path).get("include_prompt") is False


def read_recipe(model: str) -> tuple[VectorRecipe, str]:
    """Return how a model's vectors are made, and why that is not as its files say, empty if it is or they say nothing.

    Raise ValueError naming the file that is damaged.
    """
    path, prompts = recorded_file(model, "1_Pooling/config.json"), read_prompts(model)
    if path is None:
        return replace(MEAN, prompts=prompts), ""
    pooling = recorded_pooling(path.parents[1])
    plain = replace(MEAN, prompts=prompts)
    if pooling not in get_args(Pooling):
        return plain, f"{path} pools in another way than mean, first or last token"
    if leaves_prompt_out(model) and any(prompts.texts.values()):
        return plain, f"{path} leaves the tokens of prompts out (include_prompt), which is not done here"
    projection, problem = _read_projection(model)
    if problem:
        return plain, problem
    return VectorRecipe(pooling, projection, prompts, is_recorded=True), ""  # type: ignore[arg-type]


def _read_projection(model: str) -> tuple[Tensor | None, str]:
    """Return the linear map after the pooling, None without one, and what is there instead, empty if nothing."""
    modules = recorded_file(model, "modules.json")
    listed = json.loads(modules.read_bytes()) if modules else []
    kinds = [(str(one["type"]).rpartition(".")[2], str(one["path"])) for one in listed]
    after = [(kind, path) for kind, path in kinds if kind not in ("Transformer", "Pooling", "Normalize")]
    product: Tensor | None = None
    for kind, path in after:
        config = recorded_file(model, f"{path}/config.json")
        weights = recorded_file(model, f"{path}/model.safetensors")
        settings = _read(config) if config else {}
        plain = settings.get("activation_function") == _IDENTITY and settings.get("bias") is False  # not its defaults
        if kind != "Dense" or not plain or not weights:
            what = ", ".join(name for name, _ in after)
            return None, f"{modules}: {what} after the pooling is more than linear maps without bias"
        linear = load_file(weights)["linear.weight"].float()
        product = linear if product is None else linear @ product  # EmbeddingGemma has two
    return product, ""


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())
        if not isinstance(values, dict):
            raise ValueError("it must be an object")
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    return values
