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


def build_optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """Fused AdamW over the trainable parameters; only the matrices of linear layers are decayed.

    Embeddings are left out because most rows get no gradient in most steps: decay alone would wear down rare pieces and
    the positions beyond the training length.
    """
    linear = {id(layer.weight) for layer in module.modules() if isinstance(layer, nn.Linear)}
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if id(p) in linear], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if id(p) not in linear], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def build_schedule(optimizer: torch.optim.Optimizer, config: ScheduleConfig, total_steps: int) -> LambdaLR:
    """One scheduler step an optimizer step."""
    return LambdaLR(optimizer, lambda step: config.factor(step, total_steps))
