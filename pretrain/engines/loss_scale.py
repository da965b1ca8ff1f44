"""Dynamic loss scaling for float16, whose small gradients would otherwise be rounded to 0.

DeepSpeed's own scaler (torch_autocast, version 0.19.8) is not used: at ZeRO stages 1 and 2 it is not lowered after an
overflow and not divided out before clipping; at stage 0 it ignores another rank's loss that is not finite.
"""

import torch
from pydantic import NonNegativeInt, PositiveFloat
from torch import Tensor

from pretrain.settings import Settings

# torch.amp.GradScaler's defaults, and DeepSpeed's smallest scale
_FIRST_SCALE, _GROWTH, _BACKOFF, _GROWTH_STEPS, _LEAST_SCALE = 2.0**16, 2.0, 0.5, 2000, 1.0


class LossScaleState(Settings):
    """The state that a checkpoint keeps."""

    scale: PositiveFloat
    good_steps: NonNegativeInt  # since the scale last changed


class LossScale:
    """A factor for the loss: halved after a step with gradients that are not finite, doubled after 2,000 good steps.

    It stays on the device, so that no step waits for the host to read it.
    """

    def __init__(self, device: torch.device) -> None:
        self.scale = torch.full((), _FIRST_SCALE, device=device)
        self._good_steps = torch.zeros((), device=device)

    def update(self, step_is_bad: Tensor) -> None:
        """Update the scale after a step; `step_is_bad` is 1 if it was skipped, else 0, and the same on every rank."""
        bad, good_steps = step_is_bad > 0, self._good_steps + 1
        grows = good_steps >= _GROWTH_STEPS
        grown = torch.where(grows, self.scale * _GROWTH, self.scale)
        self.scale = torch.where(bad, (self.scale * _BACKOFF).clamp(min=_LEAST_SCALE), grown)
        self._good_steps = torch.where(bad | grows, 0.0, good_steps)

    @property
    def is_least(self) -> bool:
        """Whether the scale is at its minimum, so that an overflow has another cause."""
        return bool(self.scale <= _LEAST_SCALE)

    @property
    def state(self) -> LossScaleState:
        """The state for a checkpoint. Waits for the device."""
        return LossScaleState(scale=float(self.scale), good_steps=int(self._good_steps))

    @state.setter
    def state(self, state: LossScaleState) -> None:
        self.scale = torch.full_like(self.scale, state.scale)
        self._good_steps = torch.full_like(self._good_steps, state.good_steps)
