"""Loading models from a folder or the hub, with checks. Code that comes with a model is never run."""

import pickle
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel

from pretrain.models.encoder import EncoderShape, HuggingFaceModel

# Errors of libraries for files that are truncated or of another kind, such as Git LFS pointers
_DAMAGED = (RuntimeError, SafetensorError, pickle.UnpicklingError, EOFError)


def load_pretrained(auto_class: Any, path: str, **options: Any) -> Any:
    """Return `auto_class.from_pretrained(path)` for a class of transformers and a folder or hub id.

    Raise ValueError if there is no such model or its files are damaged.
    """
    if not Path(path).exists() and (path.startswith((".", "/", "~")) or path.count("/") > 1):
        raise ValueError(f"there is no folder {path!r}")  # no hub id looks like this
    try:
        return auto_class.from_pretrained(path, trust_remote_code=False, **options)  # else it asks at a terminal
    except (OSError, ValueError, *_DAMAGED) as error:
        kind = "folder" if Path(path).is_dir() else "folder or hub id"
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"no model could be loaded from {kind} {path!r}: {reason}") from error


def read_shape(path: str) -> EncoderShape:
    """Return the sizes of a model from its config alone.

    Raise ValueError if there is no config or its family is not supported.
    """
    config = load_pretrained(AutoConfig, path)
    try:
        return EncoderShape.of(config)
    except ValueError as error:
        raise ValueError(f"{path!r}: {error}") from error


def load_model(auto_class: Any, path: str, **options: Any) -> tuple[HuggingFaceModel, set[str]]:
    """Return a model in float32 on the CPU, and the names of weights missing in its folder, which are random.

    Raise ValueError if a weight has another size than its config says or is not finite (a pooler's is not checked).
    """
    options |= {"dtype": torch.float32, "output_loading_info": True, "ignore_mismatched_sizes": True}
    model, found = load_pretrained(auto_class, path, **options)
    if mismatched := sorted(found["mismatched_keys"]):
        name, stored, wanted = mismatched[0]
        raise ValueError(f"{path!r}: its config says that {name} is {list(wanted)}, but it is {list(stored)}")
    for name, weight in model.named_parameters():
        if "pooler." not in name and not weight.isfinite().all():
            raise ValueError(f"{path!r}: {name} contains numbers that are not finite")
    return model, set(found["missing_keys"])


def load_encoder(path: str, with_pooler: bool = False) -> HuggingFaceModel:
    """Return an encoder in float32 on the CPU, without its head, and without its pooler unless `with_pooler`.

    Raise ValueError if it cannot be loaded or weights are missing.
    """
    model, missing = load_model(AutoModel, path)
    check_weights(path, missing)
    if hasattr(model, "pooler") and not with_pooler:
        model.pooler = None
    return model


def check_weights(path: str, missing: Iterable[str], prefix: str = "") -> None:
    """Raise ValueError if weights of the encoder, other than its pooler's, are missing in its folder.

    Transformers would make them random, different in every process.

    Args:
        missing: names of missing weights; those without `prefix` are not the encoder's.
    """
    names = (name.removeprefix(prefix) for name in missing if name.startswith(prefix))
    if lost := sorted(name for name in names if not name.startswith("pooler.")):
        raise ValueError(f"{path!r}: {len(lost)} weights are missing, such as {lost[0]}")


def check_vocabulary(path: str, num_embeddings: int, pieces: Sequence[str]) -> None:
    """Raise ValueError if the tokenizer, whose pieces are given by id, has more ids than the model has embeddings."""
    if len(pieces) > num_embeddings:
        raise ValueError(
            f"{path!r} has {num_embeddings} embeddings, but the tokenizer has {len(pieces)} ids; the first too many is "
            f"{pieces[num_embeddings]!r} (tokens that vocab.txt lacks get ids after its last line)"
        )
