"""The modules of a sentence-transformers folder, read so that a graph can hold them: pooling, dense, normalisation."""

from pathlib import Path

import torch
from torch import Tensor, nn

from pretrain.models.pooling import Pooling, pool, recorded_pooling
from pretrain.models.sentence_files import read_dense, read_modules, read_object

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
    named = read_modules(str(folder))
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
            after += _dense(folder, path, width)
            width = after[-2].out_features  # type: ignore[assignment]
    settings = folder / "sentence_bert_config.json"
    most = read_object(settings).get("max_seq_length") if settings.is_file() else None
    return SentenceVectors(pooling, after, kinds[-1] == "Normalize", most or 1 << 30)  # type: ignore[arg-type]


def _dense(folder: Path, path: str, width: int) -> list[nn.Module]:
    """Return a linear layer and its activation. Raise ValueError for another activation or weights that do not fit."""
    dense = read_dense(str(folder), path)
    if dense.activation not in _ACTIVATIONS:
        where, known = folder / path / "config.json", ", ".join(_ACTIVATIONS)
        raise ValueError(f"{where}: cannot be exported: activation {dense.activation}; wanted one of {known}")
    if dense.weight.dim() != 2 or dense.weight.shape[1] != width:
        where, shape = folder / path / "model.safetensors", " x ".join(map(str, dense.weight.shape))
        raise ValueError(f"{where}: linear.weight is {shape}, but its input is {width} wide")
    linear = nn.Linear(width, len(dense.weight), bias=dense.bias is not None)
    with torch.no_grad():
        linear.weight.copy_(dense.weight)
        if dense.bias is not None:
            linear.bias.copy_(dense.bias)
    return [linear, _ACTIVATIONS[dense.activation]()]
