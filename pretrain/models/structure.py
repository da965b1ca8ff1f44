"""Where the parts of a Hugging Face encoder are: its layers, the norm after the last of them, and its projections."""

import inspect
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.models.family import family_of

Rotation = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def layers_of(base: Any) -> list[nn.Module]:
    """Return the modules that compute an encoder's layers, in order; shared ones (ALBERT) only once.

    Raise ValueError if they cannot be found.
    """
    stack = layer_stack(base)
    if stack is not None:
        return list(stack.children())
    kinds = getattr(base, "_can_record_outputs", None) or {}
    kind = kinds.get("hidden_states")
    found = [one for one in base.modules() if type(one) is kind]
    if not found:
        raise ValueError(f"the layers of a {base.config.model_type} model cannot be found among its modules")
    return found


def layer_stack(base: Any) -> nn.ModuleList | None:
    """Return the list of an encoder's layers, from which layers can be deleted; None if they share their weights.

    It is the longest list of modules of one class.
    """
    if family_of(base.config.model_type).shares_layers:
        return None
    lists = [one for one in base.modules() if isinstance(one, nn.ModuleList) and len({type(m) for m in one}) < 2]
    return max(lists, key=len, default=None)


@torch.no_grad()
def final_norm(base: Any) -> nn.Module | None:
    """Return the norm between the last layer and the output, which encoders have whose layers normalise their input.

    It is found by running the model on one token.
    """
    stack = layer_stack(base)
    if not stack:
        return None
    seen: dict[str, Any] = {}

    def leave_layer(module: nn.Module, args: Any, output: Any) -> None:
        seen["state"] = output[0] if isinstance(output, tuple) else output

    def leave_other(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if args and args[0] is seen.get("state"):
            seen["norm"] = module

    inside = {one for layer in stack for one in layer.modules()}
    others = [one for one in base.modules() if one not in inside and not list(one.children()) and one is not stack]
    hooks = [stack[-1].register_forward_hook(leave_layer), *(one.register_forward_hook(leave_other) for one in others)]
    training, device = base.training, next(base.parameters()).device
    try:
        output = base.eval()(input_ids=torch.zeros((1, 1), dtype=torch.long, device=device)).last_hidden_state
    finally:
        base.train(training)
        for hook in hooks:
            hook.remove()
    return None if output is seen["state"] else seen.get("norm")


def projections_of(base: Any) -> list[tuple[nn.Module, nn.Module, nn.Module]]:
    """Return the modules that make queries, keys and values in each layer; none if transformers' interface has them."""
    names = family_of(base.config.model_type).projections
    if names is None:
        return []
    modules = [one for one in base.modules() if all(hasattr(one, name) for name in names)]
    return [tuple(getattr(one, name) for name in names) for one in modules]


def rotation_of(module: nn.Module) -> Rotation | None:
    """Return the function with which an attention module rotates queries and keys by cosines and sines, if any."""
    return getattr(sys.modules[type(module).__module__], "apply_rotary_pos_emb", None)


def unrotated(rotate: Rotation, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Return queries and keys [B, H, L, d] as before `rotate`: turned back by the same angles.

    Cosines and sines may have been scaled (YaRN); at position 0, where every row begins, the scale is the cosine.
    """
    scale = cos[..., :1, :1].float().square().unsqueeze(1)
    back = rotate(query.float(), key.float(), cos.float(), -sin.float())
    return (back[0] / scale).to(query.dtype), (back[1] / scale).to(key.dtype)


def accepted(model: Any, *names: str) -> set[str]:
    """Return those of the names that are parameters of the model's forward, and mean there what they do in BERT."""
    wanted = set(names) & set(inspect.signature(type(model).forward).parameters)
    # GPT-2 would add the embeddings of words to those of types
    return wanted if getattr(model.config, "type_vocab_size", None) else wanted - {"token_type_ids"}


def cut_layers(base: Any, num_layers: int) -> None:
    """Remove the layers above `num_layers` from an encoder, except ALBERT's shared ones, which take no memory.

    One layer stays: its input is hidden state 0.
    """
    stack = layer_stack(base)
    if stack is not None:
        del stack[max(1, num_layers) :]
