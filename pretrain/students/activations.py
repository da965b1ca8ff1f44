"""What modules of a model take in and give out for a sample of text."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.models.encoder import HuggingFaceModel
from pretrain.models.structure import accepted


@torch.no_grad()
def watch(
    model: HuggingFaceModel,
    sample: Mapping[str, Tensor],
    modules: Iterable[nn.Module],
    see: Callable[[nn.Module, Tensor, Tensor], None],
) -> None:
    """Run a model without dropout on a batch [B, L], and call `see` with every module that has run, in their order.

    Args:
        see: gets the module, its first input and its (first) output, [B, L, ..] each.
    """

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        state = args[0] if args else kwargs["hidden_states"]
        see(module, state.float(), (output[0] if isinstance(output, tuple) else output).float())

    training = model.training
    hooks = [module.register_forward_hook(hook, with_kwargs=True) for module in modules]
    names = {"input_ids", "attention_mask", *accepted(model, "token_type_ids")}
    try:
        model.eval()(**{name: sample[name] for name in names & sample.keys()})
    finally:
        model.train(training)
        for one in hooks:
            one.remove()
