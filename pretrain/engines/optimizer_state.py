"""AdamW's state by the names of parameters, complete on every rank, at any ZeRO stage.

At ZeRO stages 1 and 2 every rank has only a flat partition of the moments; only this module depends on that.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")


def gather_optimizer_state(engine: Any, module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return exp_avg/NAME, exp_avg_sq/NAME and num_updates [P] of the P trained parameters. Every rank must call it.

    The state of a parameter that was never updated is zero.
    """
    from deepspeed.utils import safe_get_full_optimizer_state

    sharded = engine.zero_optimization()
    states = dict(_states(engine, module, optimizer))
    gathered: dict[str, Tensor] = {}
    for name, parameter in _trained(module):
        for key in MOMENTS:
            whole = safe_get_full_optimizer_state(parameter, key) if sharded else states[name][key]
            gathered[f"{key}/{name}"] = whole.detach()
    return gathered | {"num_updates": torch.stack([state["step"] for state in states.values()])}


@torch.no_grad()
def put_optimizer_state(
    engine: Any, module: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Set the state that `gather_optimizer_state` returned.

    The parameters must already have their values, because ZeRO's own copies of them are refreshed here.
    """
    from deepspeed.utils import safe_set_full_optimizer_state

    sharded = engine.zero_optimization()
    states = dict(_states(engine, module, optimizer))
    for (name, parameter), num_updates in zip(_trained(module), tensors["num_updates"], strict=True):
        states[name]["step"].copy_(num_updates)
        for key in MOMENTS:
            if sharded:
                safe_set_full_optimizer_state(parameter, tensors[f"{key}/{name}"].to(parameter.device), key)
            else:
                states[name][key].copy_(tensors[f"{key}/{name}"])
    if sharded:
        engine.optimizer.refresh_fp32_params()


def _trained(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad)


def _states(engine: Any, module: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, dict]]:
    """Yield the optimizer's state of each trained parameter, created as AdamW does at its first step if missing."""
    from deepspeed.utils.mixed_precision_linkage import lazy_init_hp_params_optimizer_state

    groups = []
    if engine.zero_optimization():
        groups = list(zip(engine.optimizer.bit16_groups, engine.optimizer.single_partition_of_fp32_groups, strict=True))
    owners = {id(parameter): flat for group, flat in groups for parameter in group}
    for name, parameter in _trained(module):
        owner = owners.get(id(parameter), parameter)
        state = optimizer.state[owner]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=owner.device)
            state.update({key: torch.zeros_like(owner) for key in MOMENTS})
        yield name, state
    for group, flat in groups:  # DeepSpeed does this after the first group's step, too early for the other groups
        lazy_init_hp_params_optimizer_state(group, flat, optimizer.state)
