"""What a model's sentence-transformers files say: how the vector of a text is made, and which prompts stand before it.

Shapes: D hidden width, D_in and D_out widths before and after a layer, or of the vectors.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers.utils import cached_file

from pretrain.models.pooling import Pooling, recorded_pooling

_PROMPTS = "config_sentence_transformers.json"


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


@dataclass(frozen=True)
class Dense:
    """A linear layer after the pooling.

    Attributes:
        weight: [D_out, D_in].
        bias: [D_out], or None.
        activation: its class in torch.nn, such as Tanh; Identity for none.
    """

    weight: Tensor
    bias: Tensor | None
    activation: str


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
    values = read_object(path)
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
    return path is not None and read_object(path).get("include_prompt") is False


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


def read_modules(model: str) -> list[tuple[str, str]]:
    """Return (class, path) of each module that a model's modules.json lists; none without that file.

    Raise ValueError if it is damaged.
    """
    path = recorded_file(model, "modules.json")
    try:
        listed = json.loads(path.read_bytes()) if path else []
        return [(str(one["type"]).rpartition(".")[2], str(one["path"])) for one in listed]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f'{path}: want a list of {{"type", "path"}}: {error!r}') from error


def read_dense(model: str, path: str) -> Dense:
    """Return the layer of a module of class Dense, in float32. Raise ValueError naming the file that is damaged."""
    config = recorded_file(model, f"{path}/config.json")
    weights = recorded_file(model, f"{path}/model.safetensors")
    activation = str((read_object(config) if config else {}).get("activation_function", "Tanh"))
    try:
        state = load_file(weights) if weights else {}
        weight, bias = state["linear.weight"].float(), state.get("linear.bias")
    except (OSError, SafetensorError, KeyError) as error:
        raise ValueError(f"{model}/{path}/model.safetensors: no weights of a dense layer: {error!r}") from error
    return Dense(weight, None if bias is None else bias.float(), activation.rpartition(".")[2])


def _read_projection(model: str) -> tuple[Tensor | None, str]:
    """Return the linear map after the pooling, None without one, and what is there instead, empty if nothing."""
    modules = read_modules(model)
    after = [(kind, path) for kind, path in modules if kind not in ("Transformer", "Pooling", "Normalize")]
    product: Tensor | None = None
    for kind, path in after:
        dense = read_dense(model, path) if kind == "Dense" else None
        if dense is None or dense.bias is not None or dense.activation != "Identity":
            what = ", ".join(name for name, _ in after)
            where = recorded_file(model, "modules.json")
            return None, f"{where}: {what} after the pooling is more than linear maps without bias"
        product = dense.weight if product is None else dense.weight @ product  # EmbeddingGemma has two
    return product, ""


def read_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file. Raise ValueError naming the file if there is none."""
    try:
        values = json.loads(path.read_bytes())
        if not isinstance(values, dict):
            raise ValueError("it must be an object")
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    return values
