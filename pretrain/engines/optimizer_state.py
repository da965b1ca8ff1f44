"""AdamW's state under the names of parameters, whole on every rank, whatever DeepSpeed has made of it.

At ZeRO stages 1 and 2 the moments lie in flat partitions, a rank its own; nothing else in this project knows that.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")


def gather_optimizer_state(engine: Any, module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """exp_avg/NAME, exp_avg_sq/NAME and num_updates [P] of the trained parameters; every rank must call it.

    Of one that was never updated the state is zero.
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
    """The reverse; the parameters must have their values already, for ZeRO's own copies of them are taken here."""
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
    """The state that the optimizer keeps for each trained parameter, begun as AdamW does at its first step."""
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
    for group, flat in groups:  # DeepSpeed itself does so after the step of the first group, too early for the others
        lazy_init_hp_params_optimizer_state(group, flat, optimizer.state)
