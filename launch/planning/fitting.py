"""Fitting a law to measured points: least squares of log losses with Huber's loss, from several starts."""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from pydantic import PositiveInt

from launch.planning.law import Curve, Law, Positive, Setting
from pretrain.settings import Settings, Share

LEAST_POINTS = 8  # five numbers are fitted
_DELTA = 0.02  # residuals beyond it, of log losses and of scores, count by their size, not its square
_EXPONENTS = (0.2, 0.7)  # that the fit starts from
_STEPS, _MOST_DAMPING, _LEAST_GAIN = 300, 1e8, 1e-9
_LOGS = (-30.0, 3.0)  # of the numbers that are fitted
Array = np.ndarray
Residuals = Callable[[Array], tuple[Array, Array]]  # of numbers [n]: errors [P] and their slopes by logarithms [P, n]


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
    pairs = list(zip(points, without, strict=True))
    kept_error = _kept_error(pairs)
    if kept_error is None:
        curve, *without = (one.model_copy(update={"kept": None}) for one in (curve, *without))
    return Law(
        about=about,
        setting=setting,
        num_points=len(points),
        parameters=(min(sizes), max(sizes)),
        tokens=(min(lengths), max(lengths)),
        curve=curve,
        without=without,
        loss_error=_root_mean_square([math.log(one.loss / fit.loss(one.parameters, one.tokens)) for one, fit in pairs]),
        kept_error=kept_error,
    )


def _kept_error(pairs: Sequence[tuple[Point, Curve]]) -> float | None:
    """Return the error of scores predicted without them, by the predicted loss.

    None if there are none, or if the mean of the others predicts them as well: the score then does not follow the loss.
    """
    scores = [(one.kept, fit.kept_score(fit.loss(one.parameters, one.tokens))) for one, fit in pairs if fit.kept]
    known = [kept for kept, _ in scores if kept is not None]
    if len(known) < len(pairs):
        return None
    error = _root_mean_square([kept - predicted for kept, predicted in scores if kept is not None])
    others = [(sum(known) - kept) / (len(known) - 1) for kept in known]
    by_mean = _root_mean_square([kept - mean for kept, mean in zip(known, others, strict=True)])
    return error if error < by_mean else None


def fit_curve(points: Sequence[Point], near: Curve | None = None) -> Curve:
    """Return the curve of least Huber loss, from a grid of starts, or from one that is near."""
    size, tokens, loss = (np.log([getattr(one, key) for one in points]) for key in ("parameters", "tokens", "loss"))
    # Counted from their geometric means, so that all that is fitted is near 1
    of_size, of_tokens, scale = (math.exp(values.mean()) for values in (size, tokens, loss))
    size, tokens, loss = (values - values.mean() for values in (size, tokens, loss))

    def residuals(numbers: Array) -> tuple[Array, Array]:
        floor, first, power, second, other = numbers
        parts = np.stack([np.full_like(loss, floor), first * np.exp(-power * size), second * np.exp(-other * tokens)])
        shares = parts / parts.sum(0)
        slopes = [shares[0], shares[1], -power * size * shares[1], shares[2], -other * tokens * shares[2]]
        return np.log(parts.sum(0)) - loss, np.stack(slopes, axis=1)

    starts = [[part, 0.2, a, 0.3, b] for part, a, b in itertools.product((0.1, 0.5), _EXPONENTS, _EXPONENTS)]
    if near:
        (first, power), (second, other) = near.size, near.tokens
        starts = [[near.floor / scale, first / of_size**power / scale, power, second / of_tokens**other / scale, other]]
    floor, first, power, second, other = best_fit(residuals, starts)
    return Curve(
        floor=floor * scale,
        size=(first * scale * of_size**power, power),
        tokens=(second * scale * of_tokens**other, other),
        kept=_fit_kept(points),
    )


def _fit_kept(points: Sequence[Point]) -> tuple[float, float] | None:
    """Return c and d of the kept score, a logistic function of the log loss; None without scores."""
    measured = [(math.log(one.loss), one.kept) for one in points if one.kept is not None]
    if not measured:
        return None
    loss, kept = np.array(measured).T
    middle = float(loss.mean())

    def residuals(numbers: Array) -> tuple[Array, Array]:
        level, slope = numbers
        found = 1 / (1 + level * np.exp(slope * (loss - middle)))
        steepness = -found * (1 - found)
        return found - kept, np.stack([steepness, steepness * slope * (loss - middle)], axis=1)

    level, slope = best_fit(residuals, [[1.0, 1.0], [1.0, 4.0]])
    return slope * middle - math.log(level), slope


def best_fit(residuals: Residuals, starts: Sequence[Sequence[float]]) -> list[float]:
    """Return the positive numbers of least Huber loss, the best of those found from each start.

    Levenberg and Marquardt's steps in the numbers' logarithms, residuals weighted anew before each.
    """
    fits = [_descend(residuals, np.log(start).clip(*_LOGS)) for start in starts]
    return [float(number) for number in np.exp(min(fits, key=lambda theta: _huber(residuals(np.exp(theta))[0])))]


def _descend(residuals: Residuals, theta: Array) -> Array:
    damping = 1e-2
    for _ in range(_STEPS):
        errors, slopes = residuals(np.exp(theta))
        weighted = slopes.T * np.minimum(1, _DELTA / np.maximum(np.abs(errors), _DELTA))
        step = np.linalg.solve(weighted @ slopes + damping * np.eye(len(theta)), -weighted @ errors)
        trial = (theta + step).clip(*_LOGS)
        before, after = _huber(errors), _huber(residuals(np.exp(trial))[0])
        if before - after > _LEAST_GAIN * before:
            theta, damping = trial, max(damping / 3, 1e-12)
        elif (damping := 4 * damping) > _MOST_DAMPING:
            break
    return theta


def _huber(errors: Array) -> float:
    size = np.abs(errors)
    return float(np.where(size < _DELTA, size**2 / 2, _DELTA * (size - _DELTA / 2)).sum())


def _root_mean_square(values: Sequence[float]) -> float:
    return math.sqrt(sum(value**2 for value in values) / len(values))
