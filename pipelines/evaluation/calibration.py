"""Is a model's forecast any good, and does it know how good it is?

Pure functions over arrays of forecasts and outcomes. A forecast is a Gaussian (mean, deviation), a mixture
of Gaussians, or samples; scores are negatively oriented (less is better) and given per forecast, so
that a caller may average, plot or resample them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_ndtr, logsumexp, ndtr, ndtri

from pipelines.evaluation.resampling import Interval, mean_confidence_interval

Floats = NDArray[np.float64]

HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


class Reference(NamedTuple):
    """Scores per forecast of the two forecasts that need no model; each [T]."""

    gaussian: Floats
    persistence: Floats


class Skill(NamedTuple):
    """Mean score of a model beside those of the references, and the gains with their intervals."""

    model: float
    gaussian: float
    persistence: float
    gain_over_gaussian: Interval
    gain_over_persistence: Interval


class HorizonBias(NamedTuple):
    """Planned against realised, by step of the plan; each [H]."""

    bias: Floats  # mean of planned − realised: above zero is optimism
    standard_error: Floats
    rmse: Floats
    correlation: Floats  # 0 where one of the two does not vary


class DreamGap(NamedTuple):
    """What a policy earned in the model minus what it earned in the market."""

    dreamed: float
    real: float
    gap: float
    interval: Interval


def gaussian_nll(outcome: ArrayLike, mean: ArrayLike, deviation: ArrayLike) -> Floats:
    """−log density of `outcome` under N(mean, deviation²); shapes broadcast."""
    spread = _positive(deviation)
    z = (_floats(outcome) - _floats(mean)) / spread
    return np.asarray(0.5 * z**2 + np.log(spread) + HALF_LOG_TWO_PI)


def mixture_nll(outcome: ArrayLike, weights: ArrayLike, means: ArrayLike, deviations: ArrayLike) -> Floats:
    """−log density under a mixture of Gaussians.

    Args:
        outcome: [...]
        weights, means, deviations: [..., K]; weights are at least 0 and sum to 1.
    """
    share = _floats(weights)
    if np.any(share < 0.0) or not np.allclose(share.sum(axis=-1), 1.0, atol=1e-6):
        raise ValueError("mixture weights are at least 0 and sum to 1")
    parts = -gaussian_nll(_floats(outcome)[..., None], means, deviations)
    return np.asarray(-logsumexp(parts, axis=-1, b=share))


def reference_nll(outcome: ArrayLike, train: ArrayLike) -> Reference:
    """Negative log likelihood of a Gaussian and of persistence, both fitted on `train` alone.

    The Gaussian has the mean and deviation of the training outcomes. Persistence says "as the bar
    before", with the deviation of the training changes; the first bar of `outcome` follows the last
    one of `train`.
    """
    past = _floats(train)
    seen = _floats(outcome)
    if past.size < 3:
        raise ValueError(f"the references need at least 3 training outcomes, got {past.size}")
    before = np.concatenate([past[-1:], seen[:-1]])
    changes = np.diff(past)
    return Reference(
        gaussian=gaussian_nll(seen, past.mean(), past.std()),
        persistence=gaussian_nll(seen, before, math.sqrt(float(np.mean(changes**2)))),
    )


def skill(model: ArrayLike, reference: Reference, *, seed: int, block: float | None = None) -> Skill:
    """Mean scores and gains (reference − model: above zero is skill). Consumes `seed`.

    Args:
        model: scores [T] of the model for the same outcomes as `reference`.
    """
    scores = _floats(model)
    gains = [
        mean_confidence_interval(other - scores, block=block, seed=seed)
        for other in (reference.gaussian, reference.persistence)
    ]
    return Skill(
        model=float(scores.mean()),
        gaussian=float(reference.gaussian.mean()),
        persistence=float(reference.persistence.mean()),
        gain_over_gaussian=gains[0],
        gain_over_persistence=gains[1],
    )


def crps_gaussian(outcome: ArrayLike, mean: ArrayLike, deviation: ArrayLike) -> Floats:
    """Continuous ranked probability score of N(mean, deviation²): Gneiting and Raftery (2007), eq. 21."""
    spread = _positive(deviation)
    z = (_floats(outcome) - _floats(mean)) / spread
    density = np.exp(-0.5 * z**2 - HALF_LOG_TWO_PI)
    return np.asarray(spread * (z * (2.0 * ndtr(z) - 1.0) + 2.0 * density - 1.0 / math.sqrt(math.pi)))


def crps_samples(outcome: ArrayLike, samples: ArrayLike) -> Floats:
    """Score of a forecast given as samples: E|X − y| − ½ E|X − X'|, unbiased in the number of samples.

    The "fair" estimator (Ferro 2014): the second mean is over pairs of different samples, which a sort
    gives in M log M.

    Args:
        outcome: [...]
        samples: [..., M], M at least 2.
    """
    draws = np.sort(_floats(samples), axis=-1)
    number = draws.shape[-1]
    if number < 2:
        raise ValueError(f"needs at least 2 samples a forecast, got {number}")
    error = np.abs(draws - _floats(outcome)[..., None]).mean(axis=-1)
    # Σ over pairs |X_i − X_j| (i < j) = Σ (2 k − M − 1) X_(k), k = 1..M
    weight = 2.0 * np.arange(1, number + 1) - number - 1.0
    return np.asarray(error - (draws @ weight) / (number * (number - 1)))


def pit_gaussian(outcome: ArrayLike, mean: ArrayLike, deviation: ArrayLike) -> Floats:
    """Probability integral transform: where each outcome falls in its forecast, uniform if calibrated."""
    return np.asarray(ndtr((_floats(outcome) - _floats(mean)) / _positive(deviation)))


def pit_mixture(outcome: ArrayLike, weights: ArrayLike, means: ArrayLike, deviations: ArrayLike) -> Floats:
    """The same for a mixture of Gaussians, arguments as in `mixture_nll`."""
    z = (_floats(outcome)[..., None] - _floats(means)) / _positive(deviations)
    return np.asarray((_floats(weights) * np.exp(log_ndtr(z))).sum(axis=-1))


def pit_samples(outcome: ArrayLike, samples: ArrayLike, *, seed: int) -> Floats:
    """The same for samples [..., M]: the outcome's rank among them, spread within its step.

    Without the spreading (which consumes `seed`) ranks would pile up on M + 1 points, and ties, as of
    a model that says 0, on one.
    """
    draws = _floats(samples)
    seen = _floats(outcome)
    below = (draws < seen[..., None]).sum(axis=-1)
    equal = (draws == seen[..., None]).sum(axis=-1)
    within = np.random.default_rng(seed).random(seen.shape)
    return np.asarray((below + within * (equal + 1)) / (draws.shape[-1] + 1))


def pit_histogram(pit: ArrayLike, bins: int = 10) -> Floats:
    """Share of outcomes in each of `bins` equal bins; 1 / bins each if calibrated. U: overconfident."""
    values = _floats(pit).ravel()
    counts, _ = np.histogram(values, bins=bins, range=(0.0, 1.0))
    return counts / max(1, values.size)


def calibration_error(pit: ArrayLike) -> float:
    """Largest distance between the law of the transform and the uniform one (0 is calibrated)."""
    values = np.sort(_floats(pit).ravel())
    steps = np.arange(values.size + 1) / values.size
    return float(max(np.max(steps[1:] - values), np.max(values - steps[:-1])))


def coverage_gaussian(
    outcome: ArrayLike, mean: ArrayLike, deviation: ArrayLike, levels: ArrayLike = (0.5, 0.8, 0.95)
) -> Floats:
    """Share of outcomes within the central intervals, by horizon.

    Args:
        outcome, mean, deviation: [E, H] of E forecasts, H steps ahead.

    Returns:
        [L, H], to be compared with `levels` [L].
    """
    z = np.abs((_floats(outcome) - _floats(mean)) / _positive(deviation))  # [E, H]
    wide = ndtri(0.5 + _floats(levels) / 2.0)  # [L]
    return np.asarray((z[None] <= wide[:, None, None]).mean(axis=1))


def coverage_samples(outcome: ArrayLike, samples: ArrayLike, levels: ArrayLike = (0.5, 0.8, 0.95)) -> Floats:
    """The same from samples [E, H, M] of the forecasts; [L, H]."""
    shares = _floats(levels)
    draws = _floats(samples)
    edges = np.concatenate([0.5 - shares / 2.0, 0.5 + shares / 2.0])
    low, high = np.split(np.quantile(draws, edges, axis=-1), 2)  # [L, E, H]
    seen = _floats(outcome)
    return np.asarray(((low <= seen) & (seen <= high)).mean(axis=1))


def planned_against_realised(planned: ArrayLike, realised: ArrayLike) -> HorizonBias:
    """Bias and error of the planned reward by step of the plan.

    Args:
        planned, realised: [E, H] reward that each of E plans expected, and what the same actions earned.
    """
    plan = _floats(planned)
    real = _floats(realised)
    if plan.shape != real.shape or plan.ndim != 2 or len(plan) < 2:
        raise ValueError(f"needs two arrays [plans >= 2, steps], got {plan.shape} and {real.shape}")
    error = plan - real  # [E, H]
    a, b = plan - plan.mean(axis=0), real - real.mean(axis=0)
    norm = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    return HorizonBias(
        bias=error.mean(axis=0),
        standard_error=error.std(axis=0, ddof=1) / math.sqrt(len(error)),
        rmse=np.sqrt((error**2).mean(axis=0)),
        correlation=np.where(norm > 0.0, (a * b).sum(axis=0) / np.where(norm > 0.0, norm, 1.0), 0.0),
    )


def dream_gap(
    dreamed: ArrayLike, real: ArrayLike, *, block: float = 1.0, replications: int = 2000, seed: int
) -> DreamGap:
    """Mean return a step that one policy earned in its model and in the market. Consumes `seed`.

    Args:
        dreamed, real: [E] of the same E starting points; pairs, so that a calm start is compared with
            a calm start. Starts that overlap in time need a `block` as long as the overlap.
    """
    imagined = _floats(dreamed)
    earned = _floats(real)
    if imagined.shape != earned.shape:
        raise ValueError(f"dreams and reality come in pairs, got {imagined.shape} and {earned.shape}")
    gap = imagined - earned
    interval = mean_confidence_interval(gap, block=block, replications=replications, seed=seed)
    return DreamGap(float(imagined.mean()), float(earned.mean()), float(gap.mean()), interval)


def _floats(values: ArrayLike) -> Floats:
    return np.asarray(values, dtype=np.float64)


def _positive(deviation: ArrayLike) -> Floats:
    spread = _floats(deviation)
    if not np.all(spread > 0.0):
        raise ValueError("a deviation is above zero")
    return spread
