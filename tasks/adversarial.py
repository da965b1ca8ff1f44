"""Adversarial training (FGM, arXiv:1605.07725; PGD, arXiv:1706.06083): a stage also learns from perturbed embeddings.

A perturbation is added to the output of the embeddings, not to their weights, and has its own norm in every row. So it
does not depend on which rows share a batch, and no optimizer, accumulated gradient or ZeRO stage takes part in it.
Norms are shares of the norm of the row's embeddings: one epsilon suits models whose embeddings differ in scale, and
texts of any length. FGM's authors normalise embeddings for that; their code moves 400 words of 256 by 5, that is 0.016.

Shapes: B rows, L tokens, E width of the word embeddings. In multiple choice every choice is a row.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, Field, PositiveInt, ValidationInfo, field_validator
from torch import Tensor, nn

from pretrain.models.encoder import Features, HuggingFaceModel, real_tokens
from pretrain.objectives.objective import Objective
from pretrain.quantization import QuantizationConfig
from pretrain.settings import Settings
from pretrain.students.student import Student


def _below_one(value: float) -> float:
    if value >= 1:
        raise ValueError(
            f"is a share of the norm of a row's embeddings: must be less than 1, got {value:g}; 0.02 is usual, and "
            "norms from code that perturbs the whole table of embeddings do not carry over"
        )
    return value


Size = Annotated[float, Field(gt=0), AfterValidator(_below_one)]


class FGMConfig(Settings):
    """One step of length epsilon along the gradient of the loss; twice the time of a stage without."""

    type: Literal["fgm"]
    epsilon: Size = 0.02  # norm of a row's perturbation, as a share of that of its embeddings

    @property
    def steps(self) -> tuple[int, float]:
        """Number of steps, and their length."""
        return 1, self.epsilon


class PGDConfig(Settings):
    """Several steps along the gradient, each projected to the ball of radius epsilon; num_steps + 1 times the time."""

    type: Literal["pgd"]
    epsilon: Size = 0.02  # largest norm of a row's perturbation, as a share of that of its embeddings
    step_size: Size = 0.006  # length of a step, as a share likewise
    num_steps: PositiveInt = 3  # passes that only look for the perturbation

    @field_validator("step_size")
    @classmethod
    def _check_step(cls, value: float, info: ValidationInfo) -> float:
        epsilon = info.data.get("epsilon")
        if epsilon and value > epsilon:
            raise ValueError(f"must be at most epsilon ({epsilon}), got {value}: longer steps end outside of the ball")
        return value

    @property
    def steps(self) -> tuple[int, float]:
        """Number of steps, and their length."""
        return self.num_steps, self.step_size


AdversarialConfig = Annotated[FGMConfig | PGDConfig, Field(discriminator="type")]


class AdversarialStudent(Student):
    """A student whose loss is that of the text plus that of its embeddings moved to where the loss is larger.

    Both are trained on in one backward pass. Dropout is drawn anew for every pass. A gradient that is not finite makes
    the loss so, and the step is skipped as any other.
    """

    def __init__(
        self,
        name: str,
        model: HuggingFaceModel,
        objectives: Sequence[Objective],
        dropout_prob: float,
        adversarial: FGMConfig | PGDConfig,
        quantization: QuantizationConfig | None = None,
    ) -> None:
        super().__init__(name, model, objectives, dropout_prob, quantization=quantization)
        self.adversarial = adversarial

    def _loss(self, batch: Mapping[str, Tensor], teacher: Features) -> tuple[Tensor, dict[str, Tensor]]:
        if not (self.training and torch.is_grad_enabled()):
            return super()._loss(batch, teacher)
        num_steps, step_size = self.adversarial.steps
        real = real_tokens(batch).unsqueeze(-1)  # [B, L, 1]
        with torch.no_grad():
            words = self.encoder.model.base_model.get_input_embeddings()(batch["input_ids"]).float() * real
        norms, delta = _norms(words), torch.zeros_like(words)
        clean, terms = self._perturbed(delta.requires_grad_(), batch, teacher)
        loss = clean
        for step in range(num_steps):
            # Asked for the perturbation alone, autograd leaves the gradients of weights as they are
            (gradient,) = torch.autograd.grad(loss * self.loss_scale, delta, retain_graph=loss is clean)
            moved = delta.detach() + step_size * norms * unit_rows(gradient * real)
            delta = within(moved, self.adversarial.epsilon * norms)
            last = step == num_steps - 1
            loss, _ = self._perturbed(delta.requires_grad_(not last), batch, teacher)
        total = clean + loss
        return total, {**terms, "loss": total.detach(), "adversarial": loss.detach()}

    def _perturbed(
        self, delta: Tensor, batch: Mapping[str, Tensor], teacher: Features
    ) -> tuple[Tensor, dict[str, Tensor]]:
        with added(self.encoder.model.base_model.get_input_embeddings(), delta):
            return super()._loss(batch, teacher)


@contextmanager
def added(embeddings: nn.Module, delta: Tensor) -> Iterator[None]:
    """Add a perturbation [B, L, E] to the output of the embeddings within the context."""
    hook = embeddings.register_forward_hook(lambda module, args, output: output + delta)
    try:
        yield
    finally:
        hook.remove()


def unit_rows(gradient: Tensor) -> Tensor:
    """Return a gradient [B, L, E] with norm 1 in every row; rows of zeros, as without labels, stay zeros."""
    largest = gradient.abs().amax((1, 2), keepdim=True)
    gradient = gradient / largest.where(largest > 0, 1)  # the squares of tiny gradients would be zeros
    norm = _norms(gradient)
    return gradient / norm.where(norm > 0, 1)


def within(delta: Tensor, radii: Tensor) -> Tensor:
    """Return perturbations [B, L, E] with norms of at most radii [B, 1, 1]: longer rows are shortened to theirs."""
    norms = _norms(delta)
    return delta * torch.where(norms > radii, radii / norms, 1)


def _norms(rows: Tensor) -> Tensor:
    return rows.square().sum((1, 2), keepdim=True).sqrt()
