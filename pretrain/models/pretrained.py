"""Loading models from a folder or the hub, with checks. Code that comes with a model is never run."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel

from pretrain.models.encoder import Encoder, HuggingFaceModel, Reads
from pretrain.models.family import FAMILIES
from pretrain.models.folder import check_place
from pretrain.models.shape import EncoderShape
from pretrain.models.weights import check_found

# Errors of libraries for files that are truncated or of another kind, such as Git LFS pointers
_DAMAGED = (RuntimeError, SafetensorError, pickle.UnpicklingError, EOFError)
_MOST_CHARACTERS = 300
_CHECKED_TOKENS = 12


def load_pretrained(auto_class: Any, path: str, **options: Any) -> Any:
    """Return `auto_class.from_pretrained(path)` for a class of transformers and a folder or hub id.

    Raise ValueError if there is no such model or its files are damaged.
    """
    check_place(path)
    try:
        return auto_class.from_pretrained(path, trust_remote_code=False, **options)  # else it asks at a terminal
    except (OSError, ValueError, LookupError, TypeError, *_DAMAGED) as error:
        kind = "folder" if Path(path).is_dir() else "folder or hub id"
        raise ValueError(f"no model could be loaded from {kind} {path!r}: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    """Return an error's words in one line, at most 300 characters of them, or its type if it has none."""
    kind, words = type(error).__name__, " ".join(str(error).split())
    words = f"{kind}: {words}" if isinstance(error, LookupError) else words or kind
    return words if len(words) <= _MOST_CHARACTERS else f"{words[:_MOST_CHARACTERS]}..."


def read_shape(path: str, needs_layers: bool = True) -> EncoderShape:
    """Return the sizes of a model from its config alone.

    Raise ValueError if there is no config or its family is not supported, or if it has no layers that could be read
    although `needs_layers`.
    """
    config = load_pretrained(AutoConfig, path)
    try:
        shape = EncoderShape.of(config)
    except ValueError as error:
        raise ValueError(f"{path!r}: {error}") from error
    if needs_layers and not shape.has_layers:
        raise ValueError(
            f"{path!r}: a {shape.model_type} has no layers to read: it can be the student of launch/td.py, label text "
            "(launch/predict.py) and be exported, and nothing else"
        )
    return shape


def load_model(auto_class: Any, path: str, **options: Any) -> tuple[HuggingFaceModel, set[str]]:
    """Return a model in float32 on the CPU, and the names of weights of its head missing in its folder, and so random.

    Raise ValueError if a weight of its encoder is missing, read by nothing, of another size than its config says or not
    finite (a pooler's is not checked).
    """
    options |= {"dtype": torch.float32, "output_loading_info": True, "ignore_mismatched_sizes": True}
    model, found = load_pretrained(auto_class, path, **options)
    check_found(path, model, found)
    for name, weight in model.named_parameters():
        if "pooler." not in name and not weight.isfinite().all():
            raise ValueError(f"{path!r}: {name} contains numbers that are not finite")
    return model, set(found["missing_keys"])


def load_encoder(path: str, with_pooler: bool = False) -> HuggingFaceModel:
    """Return an encoder in float32 on the CPU, without its head, and without its pooler unless `with_pooler`.

    Raise ValueError if it cannot be loaded, or weights are missing or read by nothing.
    """
    model, _ = load_model(AutoModel, path)
    if model.config.model_type not in FAMILIES:
        check_reading(path, model)
    if hasattr(model, "pooler") and not with_pooler:
        model.pooler = None
    return model


@torch.no_grad()
def check_reading(path: str, model: HuggingFaceModel) -> None:
    """Check that an encoder of a family that is not known by name is read as it computes, on a row of tokens.

    Raise ValueError if states, queries, keys or values are not found where they are in other families, or positions
    are numbered in another way.
    """
    shape, training = EncoderShape.of(model.config), model.training
    if not shape.has_layers:
        return
    ids = (torch.arange(_CHECKED_TOKENS) % shape.vocab_size).unsqueeze(0)
    last, layers = shape.num_layers, frozenset({shape.num_layers})
    wanted = model.eval()(input_ids=ids).last_hidden_state
    encoder = Encoder(model, Reads(frozenset({0, last}), layers))
    found = encoder({"input_ids": ids})
    numbered = encoder({"input_ids": ids, "position_ids": torch.arange(_CHECKED_TOKENS).unsqueeze(0)})
    encoder.release()
    model.train(training)
    width = shape.attention_size
    if any(one.get(last) is None or one[last].shape[-1] != width for one in (found.query, found.key, found.value)):
        problem = f"no queries, keys and values of width {width} pass through its attention"
    elif 0 not in found.hidden_states or not torch.allclose(found.hidden_states[last], wanted, rtol=1e-3, atol=1e-3):
        problem = "its attention computes something that transformers' interface does not tell"
    elif not torch.allclose(numbered.hidden_states[last], wanted, rtol=1e-3, atol=1e-3):
        problem = "it does not number positions from 0"
    else:
        return
    known = ", ".join(FAMILIES)
    raise ValueError(f"{path!r}: a {shape.model_type} model cannot be read: {problem}; known to work: {known}")


def check_vocabulary(path: str, num_embeddings: int, pieces: Sequence[str]) -> None:
    """Raise ValueError if the tokenizer, whose pieces are given by id, has more ids than the model has embeddings."""
    if len(pieces) > num_embeddings:
        raise ValueError(
            f"{path!r} has {num_embeddings} embeddings, but the tokenizer has {len(pieces)} ids; the first too many is "
            f"{pieces[num_embeddings]!r} (tokens that vocab.txt lacks get ids after its last line)"
        )
