"""Checks of the weights that transformers found in a folder: none of an encoder may be missing, or be read by nothing.

transformers draws what is missing at random and leaves out what it does not know, with a table on stderr at most.
"""

import re
from collections.abc import Mapping
from typing import Any

from pretrain.models.shape import check_positions

_NAMED = 3  # examples in a message
_OF_ENCODER = re.compile(r"(^|\.)(encoder|embeddings|embeddings_project)\.")
_BUFFERS = ("position_ids", "token_type_ids")  # saved by versions of transformers that kept them as weights
_LAYER = re.compile(r"encoder\.layer\.(\d+)\.")


def check_found(path: str, model: Any, found: Mapping[str, Any]) -> None:
    """Check what `from_pretrained(..., output_loading_info=True)` found for a model. Heads and poolers are not checked.

    Raise ValueError if a weight of the encoder is missing, is read by nothing or has another size than its config says,
    or if the config asks for positions that are not computed.
    """
    try:
        check_positions(model.config)
    except ValueError as error:
        raise ValueError(f"{path!r}: {error}") from error
    if mismatched := sorted(found["mismatched_keys"]):
        name, stored, wanted = mismatched[0]
        raise ValueError(f"{path!r}: its config says that {name} is {list(wanted)}, but it is {list(stored)}")
    prefix = "" if model.base_model is model else f"{model.base_model_prefix}."
    names = (name.removeprefix(prefix) for name in found["missing_keys"] if name.startswith(prefix))
    unread = unread_weights(model, found)
    if missing := sorted(name for name in names if not name.startswith("pooler.")):
        raise ValueError(
            f"{path!r}: {len(missing)} weights are missing, such as {missing[0]}{_other_prefix(model, missing, found)}"
        )
    if unread:
        examples = ", ".join(unread[:_NAMED])
        raise ValueError(
            f"{path!r}: a {model.config.model_type} model reads {len(unread)} weights of this encoder not at all, so "
            f"that it computes something else than what was trained: {examples}; {_advice(model.config, unread)}"
        )


def unread_weights(model: Any, found: Mapping[str, Any]) -> list[str]:
    """Return the names of stored weights of the encoder or its embeddings, not its pooler, that the model has not."""
    own = f"{model.base_model_prefix}."
    return sorted(
        name
        for name in found["unexpected_keys"]
        if not name.endswith(_BUFFERS)
        and not name.removeprefix(own).startswith("pooler.")
        and (name.startswith(own) or _OF_ENCODER.search(name))
    )


def _other_prefix(model: Any, missing: list[str], found: Mapping[str, Any]) -> str:
    """What to do where weights are there under other names: with the prefix of a family or wrapper, or foreign ones."""
    ends = [name for name in sorted(found["unexpected_keys"]) if name.endswith(f".{missing[0]}")]
    if not ends:
        others = unread_weights(model, found) or sorted(found["unexpected_keys"])
        return f"; others are there, such as {others[0]}: convert them to transformers' names" if others else ""
    prefix = ends[0].removesuffix(missing[0])
    family = prefix.removesuffix(".")
    if family in ("bert", "roberta", "electra", "albert", "ernie"):
        advice = f'set "model_type": "{family}" in its config.json, if it is one'
    else:
        advice = f"save the model again without {prefix!r}, which a wrapper such as DataParallel puts before its names"
    return f", but there is {ends[0]}: config.json says {model.config.model_type}; {advice}"


def _advice(config: Any, unread: list[str]) -> str:
    """What to do about the first kind of unread weights that is known."""
    every = " ".join(unread)
    if "distance_embedding" in every:
        return "relative positions are not computed by transformers 5: take a model with absolute positions"
    if "task_type_embeddings" in every:
        return 'these are ERNIE\'s: set "model_type": "ernie" and "use_task_id": true in its config.json'
    layers = [int(number) for name in unread for number in _LAYER.findall(name)]
    if layers and max(layers) >= config.num_hidden_layers:
        return (
            f"config.json says num_hidden_layers {config.num_hidden_layers}, but there are {max(layers) + 1} layers: "
            "correct it, or save the model again with fewer layers"
        )
    return "give config.json the model_type and the settings that it was trained with"
