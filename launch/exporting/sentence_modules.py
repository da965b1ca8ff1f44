"""The modules of a sentence-transformers folder, read so that a graph can hold them: pooling, dense, normalisation."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pretrain.models.pooling import Pooling, pool, recorded_pooling

_ACTIVATIONS = {"Identity": nn.Identity, "Tanh": nn.Tanh, "ReLU": nn.ReLU, "GELU": nn.GELU}


class SentenceVectors(nn.Module):
    """The vector [B, E] of every text from the states of its tokens [B, L, D] and their mask [B, L].

    Attributes:
        max_tokens: where texts are cut.
    """

    def __init__(self, pooling: Pooling, after: list[nn.Module], normalises: bool, max_tokens: int) -> None:
        super().__init__()
        self.pooling, self.after, self.normalises = pooling, nn.Sequential(*after), normalises
        self.max_tokens = max_tokens

    def forward(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        """Pool, map and normalise."""
        vectors = self.after(pool(states, attention_mask, self.pooling))
        return nn.functional.normalize(vectors, dim=-1) if self.normalises else vectors


def read_sentence_vectors(folder: Path, width: int) -> SentenceVectors | None:
    """Return what makes vectors of texts, in float32; None for a folder without modules.json.

    Raise ValueError naming the module that a graph cannot hold.
    """
    if not (folder / "modules.json").is_file():
        return None
    modules = _read(folder / "modules.json")
    try:
        named = [(str(one["type"]).rpartition(".")[2], str(one["path"])) for one in modules]
    except (TypeError, KeyError) as error:
        raise ValueError(f'{folder / "modules.json"}: want a list of {{"type", "path"}}: {error!r}') from error
    kinds = [kind for kind, _ in named]
    wanted = kinds[:2] == ["Transformer", "Pooling"] and named[0][1] == ""
    if not wanted or set(kinds[2:]) - {"Dense", "Normalize"} or "Normalize" in kinds[:-1]:
        raise ValueError(
            f"{folder / 'modules.json'}: cannot be exported: has {', '.join(kinds)}; wanted a Transformer in the "
            "folder itself, Pooling, then any number of Dense, and Normalize only at the end"
        )
    pooling = recorded_pooling(folder)
    if pooling not in ("mean", "first", "last"):
        raise ValueError(f"{folder / '1_Pooling'}: cannot be exported: pools in {pooling or 'no recorded way'}; "
                         "wanted mean, first or last")  # fmt: skip
    after: list[nn.Module] = []
    for kind, path in named[2:]:
        if kind == "Dense":
            after += _dense(folder / path, width)
            width = after[-2].out_features  # type: ignore[assignment]
    settings = folder / "sentence_bert_config.json"
    most = _read(settings).get("max_seq_length") if settings.is_file() else None
    return SentenceVectors(pooling, after, kinds[-1] == "Normalize", most or 1 << 30)  # type: ignore[arg-type]


def _dense(folder: Path, width: int) -> list[nn.Module]:
    """Return a linear layer and its activation. Raise ValueError for another activation or weights that do not fit."""
    config = _read(folder / "config.json")
    activation = str(config.get("activation_function", "Tanh")).rpartition(".")[2]
    if activation not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise ValueError(
            f"{folder / 'config.json'}: cannot be exported: activation {activation}; wanted one of {known}"
        )
    try:
        state = load_file(folder / "model.safetensors")
        weight, bias = state["linear.weight"].float(), state.get("linear.bias")
    except (OSError, SafetensorError, KeyError) as error:
        raise ValueError(f"{folder / 'model.safetensors'}: no weights of a dense layer: {error}") from error
    if weight.dim() != 2 or weight.shape[1] != width:
        shape = " x ".join(map(str, weight.shape))
        raise ValueError(f"{folder / 'model.safetensors'}: linear.weight is {shape}, but its input is {width} wide")
    linear = nn.Linear(width, len(weight), bias=bias is not None)
    with torch.no_grad():
        linear.weight.copy_(weight)
        if bias is not None:
            linear.bias.copy_(bias)
    return [linear, _ACTIVATIONS[activation]()]


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error
