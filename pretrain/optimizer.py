"""AdamW and its schedule, as clients of DeepSpeed (its own CPU Adam compiles for minutes and is no faster)."""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from pretrain.settings import Settings

Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimizerConfig(Settings):
    """AdamW; the defaults are MiniLMv2's."""

    lr: Annotated[float, Field(gt=0)]
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: Annotated[float, Field(gt=0)] = 1e-6
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    head_lr_ratio: Annotated[float, Field(gt=0)] = 1.0  # of heads, pooler and projections, all that is no encoder


class ScheduleConfig(Settings):
    """Linear warm-up over a share of the run, then decay to `final_lr_ratio` of the peak."""

    type: Literal["linear", "cosine", "constant"] = "linear"
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.01  # share of the steps
    final_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0

    def factor(self, step: int, total_steps: int) -> float:
        """Share of the peak learning rate that update number `step` (from 0) is made with."""
        warmup_steps = round(self.warmup_ratio * total_steps)
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        done = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        shape = {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2, "constant": 1.0}[self.type]
        return self.final_lr_ratio + (1 - self.final_lr_ratio) * shape


def build_optimizer(module: nn.Module, config: OptimizerConfig, encoder: nn.Module | None = None) -> torch.optim.AdamW:
    """Fused AdamW over the trainable parameters; only the matrices of linear layers are decayed.

    Embeddings are left out because most rows get no gradient in most steps: decay alone would wear down rare pieces and
    the positions beyond the training length. What lies outside the `encoder`, or is its pooler, has a learning rate of
    `head_lr_ratio` times the encoder's; without one everything is encoder.
    """
    linear = {id(layer.weight) for layer in module.modules() if isinstance(layer, nn.Linear)}
    names = (encoder or module).named_parameters()
    of_encoder = {id(parameter) for name, parameter in names if not (encoder and name.startswith("pooler."))}
    groups: dict[tuple[float, float], list[nn.Parameter]]
    groups = {(config.lr, decay): [] for decay in (config.weight_decay, 0.0)}  # the encoder's rate is the one reported
    for parameter in module.parameters():
        lr = config.lr * (1 if id(parameter) in of_encoder else config.head_lr_ratio)
        decay = config.weight_decay if id(parameter) in linear else 0.0
        if parameter.requires_grad:
            groups.setdefault((lr, decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr": lr, "weight_decay": decay}
            for (lr, decay), parameters in groups.items()
            if parameters  # DeepSpeed divides by the size of a group
        ],
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        fused=True,
    )


def build_schedule(optimizer: torch.optim.Optimizer, config: ScheduleConfig, total_steps: int) -> LambdaLR:
    """One scheduler step an optimizer step."""
    return LambdaLR(optimizer, lambda step: config.factor(step, total_steps))
