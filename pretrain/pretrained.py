"""Models as they are published: in a folder, or on the hub. Code shipped beside them is never run."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel

from pretrain.encoder import EncoderShape, HuggingFaceModel


def load_pretrained(auto_class: Any, path: str, **options: Any) -> Any:
    """What a class of transformers loads from a folder or hub id; ValueError where there is no such thing."""
    if not Path(path).exists() and (path.startswith((".", "/", "~")) or path.count("/") > 1):
        raise ValueError(f"there is no folder {path!r}")  # and no hub id looks like that: do not ask
    try:
        return auto_class.from_pretrained(path, **options)
    except (OSError, ValueError) as error:
        kind = "folder" if Path(path).is_dir() else "folder or hub id"
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"no model could be loaded from {kind} {path!r}: {reason}") from error


def read_shape(path: str) -> EncoderShape:
    """Sizes from the config alone; ValueError where there is none, or of a family not supported."""
    config = load_pretrained(AutoConfig, path)
    try:
        return EncoderShape.of(config)
    except ValueError as error:
        raise ValueError(f"{path!r}: {error}") from error


def load_encoder(path: str) -> HuggingFaceModel:
    """A whole encoder in float32 on the CPU, without the head or the pooler it came with."""
    model, found = load_pretrained(AutoModel, path, dtype=torch.float32, output_loading_info=True)
    check_weights(path, found["missing_keys"])
    if hasattr(model, "pooler"):
        model.pooler = None
    return model


def check_weights(path: str, missing: Iterable[str], prefix: str = "") -> None:
    """ValueError where weights of an encoder, all but its pooler's, are not in its folder: their names, `prefix` first.

    transformers would draw them, and every process others.
    """
    names = (name.removeprefix(prefix) for name in missing if name.startswith(prefix))
    if lost := sorted(name for name in names if not name.startswith("pooler.")):
        raise ValueError(f"{path!r}: {len(lost)} weights are not in it, such as {lost[0]}")


def check_vocabulary(path: str, num_embeddings: int, num_tokens: int) -> None:
    """ValueError where a tokenizer has tokens that the model has no embeddings for: a device would stop in mid-run."""
    if num_tokens > num_embeddings:
        raise ValueError(f"{path!r} has {num_embeddings} embeddings, the tokenizer {num_tokens} tokens")
