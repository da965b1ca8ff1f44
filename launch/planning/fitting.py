"""Fitting a law to measured points: least squares of log losses with Huber's loss, from several starts."""

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from pydantic import PositiveInt
from torch import Tensor
from torch.nn.functional import huber_loss

from launch.planning.law import Curve, Law, Positive, Setting
from pretrain.settings import Settings, Share

LEAST_POINTS = 8  # five numbers are fitted
_DELTA = 1e-3  # Hoffmann et al.'s: residuals of log losses beyond it count by their size, not its square
_EXPONENTS = (0.1, 0.4, 1.0)  # that the fit starts from
_STEPS = 300


class Point(Settings):
    """A student of a finished run: N, T, its held-out loss, and its score as a share of the teacher's."""

    run: str
    student: str
    parameters: PositiveInt
    tokens: PositiveInt
    loss: Positive
    kept: Share | None = None


def fit_law(setting: Setting, points: Sequence[Point], about: str = "") -> Law:
    """Fit a law. Raise ValueError if there are too few points, or all of one size or one length."""
    sizes, lengths = ({getattr(one, key) for one in points} for key in ("parameters", "tokens"))
    if len(points) < LEAST_POINTS or len(sizes) < 3 or len(lengths) < 3:
        raise ValueError(
            f"{len(points)} points of {len(sizes)} sizes and {len(lengths)} lengths: a law needs at least "
            f"{LEAST_POINTS}, of three sizes and three lengths; add runs"
        )
    curve = fit_curve(points)
    without = [fit_curve([*points[:index], *points[index + 1 :]], curve) for index in range(len(points))]
    losses = [
        math.log(one.loss / fit.loss(one.parameters, one.tokens)) for one, fit in zip(points, without, strict=True)
    ]
    scores = [
        one.kept - fit.kept_score(fit.loss(one.parameters, one.tokens))
        for one, fit in zip(points, without, strict=True)
        if one.kept is not None and fit.kept
    ]
    return Law(
        about=about,
        setting=setting,
        num_points=len(points),
        parameters=(min(sizes), max(sizes)),
        tokens=(min(lengths), max(lengths)),
        curve=curve,
        without=without,
        loss_error=_root_mean_square(losses),
        kept_error=_root_mean_square(scores) if scores and curve.kept else None,
    )


def fit_curve(points: Sequence[Point], near: Curve | None = None) -> Curve:
    """Return the curve of least Huber loss, from a grid of starts, or from one that is near."""
    size, tokens, loss = (
        torch.tensor([getattr(one, key) for one in points], dtype=torch.float64)
        for key in ("parameters", "tokens", "loss")
    )
    # N and T count from their geometric means, where A and B are parts of the loss: the fit is well scaled
    middle = [values.log().mean().exp() for values in (size, tokens)]
    logs = [(values / mean).log() for values, mean in zip((size, tokens), middle, strict=True)]

    def residuals(theta: Tensor) -> Tensor:
        floor, first, power, second, other = theta.exp()
        return (floor + first * (-power * logs[0]).exp() + second * (-other * logs[1]).exp()).log() - loss.log()

    least = loss.min().item()
    starts = [
        [math.log(part * least), math.log(0.2 * least), math.log(a), math.log(0.4 * least), math.log(b)]
        for part, a, b in itertools.product((0.1, 0.5), _EXPONENTS, _EXPONENTS)
    ]
    if near:
        parts = [near.floor, near.size[0] / middle[0] ** near.size[1], near.size[1]]
        parts += [near.tokens[0] / middle[1] ** near.tokens[1], near.tokens[1]]
        starts = [[math.log(max(float(part), 1e-9)) for part in parts]]
    floor, first, power, second, other = best_fit(residuals, starts)
    kept = _fit_kept(points)
    return Curve(
        floor=floor,
        size=(first * float(middle[0]) ** power, power),
        tokens=(second * float(middle[1]) ** other, other),
        kept=kept,
    )


def _fit_kept(points: Sequence[Point]) -> tuple[float, float] | None:
    """Return c and d of the kept score, a logistic function of the log loss; None without scores."""
    measured = [one for one in points if one.kept is not None]
    if not measured:
        return None
    loss = torch.tensor([one.loss for one in measured], dtype=torch.float64).log()
    kept = torch.tensor([one.kept for one in measured], dtype=torch.float64)
    middle = loss.mean()

    def residuals(theta: Tensor) -> Tensor:
        level, slope = theta.exp()
        return 1 / (1 + (slope * (loss - middle)).exp() * level) - kept

    level, slope = best_fit(residuals, [[0.0, 0.0], [0.0, 1.5]])
    return slope * float(middle) - math.log(level), slope


def best_fit(residuals: Callable[[Tensor], Tensor], starts: Sequence[Sequence[float]]) -> list[float]:
    """Return the positive numbers of least Huber loss of their residuals. Starts are their logarithms."""
    best, found = math.inf, list(starts[0])
    for start in starts:
        theta = torch.tensor(start, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([theta], max_iter=_STEPS, line_search_fn="strong_wolfe", tolerance_grad=1e-12,
                                      tolerance_change=1e-15)  # fmt: skip

        def value() -> Tensor:
            errors = residuals(theta)  # noqa: B023
            return huber_loss(errors, torch.zeros_like(errors), reduction="sum", delta=_DELTA) / _DELTA

        def closure() -> Tensor:
            optimizer.zero_grad()  # noqa: B023
            loss = value()
            loss.backward()
            return loss

        optimizer.step(closure)
        with torch.no_grad():
            reached = float(value())
        if reached < best:
            best, found = reached, theta.detach().tolist()
    return [math.exp(number) for number in found]


def _root_mean_square(values: Sequence[float]) -> float:
    return math.sqrt(sum(value**2 for value in values) / len(values))
