"""The factor that float16 gradients are multiplied by so that small ones are not rounded to 0.

Ours and not DeepSpeed's: at ZeRO stages 1 and 2 the scaler of its torch_autocast section (0.19.8) is not lowered after
an overflow and not divided out before gradients are clipped; at stage 0 it overrules a bad loss of another rank.
"""

import torch
from pydantic import NonNegativeInt, PositiveFloat
from torch import Tensor

from pretrain.settings import Settings

# torch.amp.GradScaler's defaults, and DeepSpeed's smallest scale
_FIRST_SCALE, _GROWTH, _BACKOFF, _GROWTH_STEPS, _LEAST_SCALE = 2.0**16, 2.0, 0.5, 2000, 1.0


class LossScaleState(Settings):
    """What a checkpoint keeps: the scale, and how many good steps were made since it changed last."""

    scale: PositiveFloat
    good_steps: NonNegativeInt


class LossScale:
    """A scale that is halved after a step with gradients that are not finite and doubled after 2,000 good ones.

    It lives on the device, so that no step waits for the host to read it.
    """

    def __init__(self, device: torch.device) -> None:
        self.scale = torch.full((), _FIRST_SCALE, device=device)
        self._good_steps = torch.zeros((), device=device)

    def update(self, step_is_bad: Tensor) -> None:
        """After a step; `step_is_bad` is 1 where it was skipped, else 0, and the same on every rank."""
        bad, good_steps = step_is_bad > 0, self._good_steps + 1
        grows = good_steps >= _GROWTH_STEPS
        grown = torch.where(grows, self.scale * _GROWTH, self.scale)
        self.scale = torch.where(bad, (self.scale * _BACKOFF).clamp(min=_LEAST_SCALE), grown)
        self._good_steps = torch.where(bad | grows, 0.0, good_steps)

    @property
    def is_least(self) -> bool:
        """Whether it cannot be halved any more, so that it is not the scale that makes gradients overflow."""
        return bool(self.scale <= _LEAST_SCALE)

    @property
    def state(self) -> LossScaleState:
        """As a checkpoint keeps it; waits for the device."""
        return LossScaleState(scale=float(self.scale), good_steps=int(self._good_steps))

    @state.setter
    def state(self, state: LossScaleState) -> None:
        self.scale = torch.full_like(self.scale, state.scale)
        self._good_steps = torch.full_like(self._good_steps, state.good_steps)
