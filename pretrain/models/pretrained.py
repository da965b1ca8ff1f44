"""Models as they are published: in a folder, or on the hub. Code shipped beside them is never run."""

import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel

from pretrain.models.encoder import EncoderShape, HuggingFaceModel

# What libraries raise for a file that is cut short or is no such file, a pointer of Git LFS say
_DAMAGED = (RuntimeError, SafetensorError, pickle.UnpicklingError, EOFError)


def load_pretrained(auto_class: Any, path: str, **options: Any) -> Any:
    """What a class of transformers loads from a folder or hub id; ValueError where there is none or it is damaged."""
    if not Path(path).exists() and (path.startswith((".", "/", "~")) or path.count("/") > 1):
        raise ValueError(f"there is no folder {path!r}")  # and no hub id looks like that: do not ask
    try:
        return auto_class.from_pretrained(path, trust_remote_code=False, **options)  # not told, it asks at a terminal
    except (OSError, ValueError, *_DAMAGED) as error:
        kind = "folder" if Path(path).is_dir() else "folder or hub id"
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"no model could be loaded from {kind} {path!r}: {reason}") from error


def read_shape(path: str) -> EncoderShape:
    """Sizes from the config alone; ValueError where there is none, or of a family not supported."""
    config = load_pretrained(AutoConfig, path)
    try:
        return EncoderShape.of(config)
    except ValueError as error:
        raise ValueError(f"{path!r}: {error}") from error


def load_model(auto_class: Any, path: str, **options: Any) -> tuple[HuggingFaceModel, set[str]]:
    """A model in float32 on the CPU, and the names of the weights that are not in its folder, which are drawn.

    ValueError where one is of another size than the config says, or not finite; nothing depends on a pooler's.
    """
    options |= {"dtype": torch.float32, "output_loading_info": True, "ignore_mismatched_sizes": True}
    model, found = load_pretrained(auto_class, path, **options)
    if mismatched := sorted(found["mismatched_keys"]):
        name, stored, wanted = mismatched[0]
        raise ValueError(f"{path!r}: its config wants {name} to be {list(wanted)}, and it is {list(stored)}")
    for name, weight in model.named_parameters():
        if "pooler." not in name and not weight.isfinite().all():
            raise ValueError(f"{path!r}: {name} holds numbers that are not finite")
    return model, set(found["missing_keys"])


def load_encoder(path: str, with_pooler: bool = False) -> HuggingFaceModel:
    """A whole encoder in float32 on the CPU, without the head it came with, nor the pooler unless that is wanted."""
    model, missing = load_model(AutoModel, path)
    check_weights(path, missing)
    if hasattr(model, "pooler") and not with_pooler:
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
