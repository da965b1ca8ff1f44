"""AdamW and its learning-rate schedule, passed to DeepSpeed (whose own CPU Adam takes minutes to compile)."""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
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
    head_lr_ratio: Annotated[float, Field(gt=0)] = 1.0  # for heads, pooler and projections: times lr


class ScheduleConfig(Settings):
    """Linear warm-up over a share of the run, then decay to `final_lr_ratio` times the peak learning rate.

    "wsd" (warm-up, stable, decay; arXiv:2404.06395) stays at the peak and decays in a line at the end of the run.
    """

    type: Literal["linear", "cosine", "constant", "wsd"] = "linear"
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.01  # share of the steps
    final_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    decay_ratio: Annotated[float, Field(gt=0, le=1)] | None = None  # wsd: share of the steps, at the end, that decay

    @model_validator(mode="after")
    def _check_decay(self) -> "ScheduleConfig":
        if self.type == "constant" and self.final_lr_ratio:
            raise ValueError(
                f"a constant schedule never decays, so final_lr_ratio ({self.final_lr_ratio}) would be ignored; leave "
                "it out, or use linear or cosine"
            )
        if (self.type == "wsd") != (self.decay_ratio is not None):
            raise ValueError(f"decay_ratio is required with the schedule wsd and belongs to no other, got {self.type}")
        if self.decay_ratio is not None and self.warmup_ratio + self.decay_ratio > 1:
            shares = f"warmup_ratio ({self.warmup_ratio}) and decay_ratio ({self.decay_ratio})"
            raise ValueError(f"{shares} are shares of the same run: together at most 1")
        return self

    def factor(self, step: int, total_steps: int) -> float:
        """Return the learning rate of update number `step` (from 0) as a share of the peak."""
        warmup_steps = round(self.warmup_ratio * total_steps)
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        done = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        left = (total_steps - step) / max(1, round((self.decay_ratio or 0) * total_steps))  # of the steps that decay
        shapes = {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2, "constant": 1.0}
        shape = shapes.get(self.type, min(1.0, max(0.0, left)))
        return self.final_lr_ratio + (1 - self.final_lr_ratio) * shape


def build_optimizer(module: nn.Module, config: OptimizerConfig, encoder: nn.Module | None = None) -> torch.optim.AdamW:
    """Return fused AdamW over the trainable parameters; weight decay applies to the matrices of linear layers only.

    Embeddings are not decayed because most rows get no gradient in most steps: decay alone would shrink rare tokens and
    the positions beyond the training length. Parameters outside `encoder`, and its pooler, get a learning rate of
    `head_lr_ratio` times the encoder's; without `encoder` all parameters get the same.
    """
    linear = {id(layer.weight) for layer in module.modules() if isinstance(layer, nn.Linear)}
    names = (encoder or module).named_parameters()
    in_encoder = {id(parameter) for name, parameter in names if not (encoder and name.startswith("pooler."))}
    groups: dict[tuple[float, float], list[nn.Parameter]]
    groups = {(config.lr, decay): [] for decay in (config.weight_decay, 0.0)}  # first: the first group's rate is logged
    for parameter in module.parameters():
        lr = config.lr * (1 if id(parameter) in in_encoder else config.head_lr_ratio)
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
    """Return the scheduler, to be stepped once per optimizer step."""
    return LambdaLR(optimizer, lambda step: config.factor(step, total_steps))
