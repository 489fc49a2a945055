"""How sure is a Sharpe ratio, and how sure is it after so many tries?

Conventions, kept everywhere: a Sharpe ratio is PER BAR, mean / standard deviation with ddof = 1 of
simple returns; skew γ3 and Pearson kurtosis γ4 (3 for a normal law) are the biased (population)
estimators; `observations` is the number of returns. Only the display annualises.

References: Bailey and López de Prado (2012), "The Sharpe Ratio Efficient Frontier" [PSR]; the same
(2014), "The Deflated Sharpe Ratio" [DSR]; Bailey, Borwein, López de Prado and Zhu (2014),
"Pseudo-Mathematics and Financial Charlatanism" [PMFC].
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

from pipelines.evaluation.dependence import automatic_block_length
from pipelines.evaluation.overfitting import Overfitting, probability_of_backtest_overfitting
from pipelines.evaluation.resampling import (
    Interval,
    bca_interval,
    mean_confidence_interval,
    percentile_interval,
    resampled_means,
    resampled_variance,
    stationary_bootstrap,
)
from pipelines.evaluation.superiority import (
    ConfidenceSet,
    RealityCheck,
    Superiority,
    model_confidence_set,
    reality_check,
    stepwise_p_values,
    superior_predictive_ability,
)

__all__ = [
    "ConfidenceSet",
    "Interval",
    "Moments",
    "Overfitting",
    "RealityCheck",
    "Superiority",
    "automatic_block_length",
    "deflated_sharpe_ratio",
    "effective_trials",
    "expected_maximum_sharpe",
    "mean_confidence_interval",
    "minimum_backtest_length",
    "minimum_track_record_length",
    "model_confidence_set",
    "moments",
    "probabilistic_sharpe_ratio",
    "probability_of_backtest_overfitting",
    "reality_check",
    "sharpe_confidence_interval",
    "sharpe_ratio",
    "sharpe_standard_error",
    "stationary_bootstrap",
    "stepwise_p_values",
    "superior_predictive_ability",
]

EULER_GAMMA = 0.5772156649015329


class Moments(NamedTuple):
    """What the formulas below need to know of a series of returns."""

    observations: int
    sharpe: float
    skew: float
    kurtosis: float


def has_dispersion(returns: NDArray[np.float64]) -> bool:
    """Whether the standard deviation is more than the rounding of a constant."""
    if returns.size < 2:
        return False
    scale = float(np.max(np.abs(returns)))
    return float(np.std(returns)) > 1e-12 * scale


def sharpe_ratio(returns: ArrayLike) -> float | None:
    """Mean over standard deviation (ddof = 1) per bar; None for a constant or a single return."""
    series = np.asarray(returns, dtype=np.float64)
    if not has_dispersion(series):
        return None
    return float(series.mean() / series.std(ddof=1))


def moments(returns: ArrayLike) -> Moments | None:
    """Sharpe ratio, skew and Pearson kurtosis (both biased) of returns [T]; None without dispersion."""
    series = np.asarray(returns, dtype=np.float64)
    sharpe = sharpe_ratio(series)
    if sharpe is None:
        return None
    centred = series - series.mean()
    second = float(np.mean(centred**2))
    return Moments(
        observations=series.size,
        sharpe=sharpe,
        skew=float(np.mean(centred**3)) / second**1.5,
        kurtosis=float(np.mean(centred**4)) / second**2,
    )


def _spread(sharpe: float, skew: float, kurtosis: float) -> float:
    """√(1 − γ3 SR + (γ4 − 1)/4 SR²): the standard deviation of √n times a Sharpe estimate [PSR eq. 4].

    Never negative under the root, because γ4 ≥ γ3² + 1 for every distribution.
    """
    return math.sqrt(max(0.0, 1.0 - skew * sharpe + (kurtosis - 1.0) / 4.0 * sharpe**2))


def sharpe_standard_error(sharpe: float, observations: int, skew: float, kurtosis: float) -> float:
    """Standard error of a per-bar Sharpe ratio for non-normal returns [PSR eq. 4]."""
    if observations < 2:
        raise ValueError(f"a standard error needs at least 2 observations, got {observations}")
    return _spread(sharpe, skew, kurtosis) / math.sqrt(observations - 1)


def probabilistic_sharpe_ratio(
    sharpe: float, observations: int, skew: float, kurtosis: float, benchmark: float = 0.0
) -> float:
    """Probability that the true Sharpe ratio is above `benchmark` [PSR eq. 9]; all per bar."""
    error = sharpe_standard_error(sharpe, observations, skew, kurtosis)
    if error == 0.0:  # a two-valued law at its extreme: the estimate is without error
        return 0.5 if sharpe == benchmark else float(sharpe > benchmark)
    return float(ndtr((sharpe - benchmark) / error))


def minimum_track_record_length(
    sharpe: float, skew: float, kurtosis: float, benchmark: float = 0.0, confidence: float = 0.95
) -> float | None:
    """Bars needed until PSR(benchmark) reaches `confidence` at this Sharpe ratio [PSR eq. 11].

    None where the Sharpe ratio is not above the benchmark: no record is long enough then.
    """
    if sharpe <= benchmark:
        return None
    distance = float(ndtri(confidence)) / (sharpe - benchmark)
    return 1.0 + _spread(sharpe, skew, kurtosis) ** 2 * distance**2


def expected_maximum_sharpe(trials: float, variance: float) -> float:
    """Expected best Sharpe ratio of `trials` independent skill-less trials [DSR eq. 1].

    √V ((1 − γ) Φ⁻¹(1 − 1/N) + γ Φ⁻¹(1 − 1/(N e))) for N trials whose Sharpe ratios have the variance
    V. One trial is no selection: 0. `trials` may be fractional (an effective number).
    """
    if trials < 1.0 or variance < 0.0:
        raise ValueError(f"needs trials >= 1 and variance >= 0, got {trials} and {variance}")
    if trials == 1.0:
        return 0.0
    best = (1.0 - EULER_GAMMA) * ndtri(1.0 - 1.0 / trials)
    best += EULER_GAMMA * ndtri(1.0 - 1.0 / (trials * math.e))
    # The approximation dips below zero between 1 and 2 trials, where a maximum cannot.
    return math.sqrt(variance) * max(0.0, float(best))


def deflated_sharpe_ratio(
    sharpe: float,
    observations: int,
    skew: float,
    kurtosis: float,
    trials: float,
    trials_variance: float,
) -> float:
    """PSR against the best Sharpe ratio that luck alone would have found [DSR eq. 2].

    Args:
        trials: number of (independent) trials behind this one.
        trials_variance: variance across the trials' per-bar Sharpe ratios.
    """
    luck = expected_maximum_sharpe(trials, trials_variance)
    return probabilistic_sharpe_ratio(sharpe, observations, skew, kurtosis, benchmark=luck)


def minimum_backtest_length(trials: float, target: float = 1.0) -> float:
    """Years below which `trials` skill-less trials are expected to show an annual Sharpe `target`.

    (E[max_N] / target)², the form with the expected maximum itself [PMFC, theorem 2].
    """
    return (expected_maximum_sharpe(trials, 1.0) / target) ** 2


def effective_trials(correlation: ArrayLike, trials: float | None = None) -> float:
    """Number of independent trials that correlated ones are worth: ρ̄ + (1 − ρ̄) N [DSR eq. 9].

    Args:
        correlation: [N, N] between the trials' returns; ρ̄ is its mean off the diagonal, between 0 and
            1 (opposed trials count as independent, never as more than one each).
        trials: N, when more trials were made than the matrix shows; they are taken to be as
            correlated as those it shows. Without it, the size of the matrix.
    """
    matrix = np.asarray(correlation, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape[0] == 0:
        raise ValueError(f"a correlation matrix is square and not empty, got shape {matrix.shape}")
    size = matrix.shape[0]
    number = float(size) if trials is None else float(trials)
    if size == 1 or number <= 1.0:
        return max(1.0, number)
    mean = (matrix.sum() - np.trace(matrix)) / (size * (size - 1))
    mean = min(1.0, max(0.0, float(mean)))
    return mean + (1.0 - mean) * number


def sharpe_confidence_interval(
    returns: ArrayLike,
    *,
    block: float | None = None,
    replications: int = 2000,
    level: float = 0.95,
    method: str = "percentile",
    seed: int,
) -> Interval | None:
    """Stationary-bootstrap interval of the per-bar Sharpe ratio; None without dispersion.

    Args:
        method: "percentile" or "bca" (bias-corrected and accelerated). Consumes `seed`.
    """
    series = np.asarray(returns, dtype=np.float64)
    sharpe = sharpe_ratio(series)
    if sharpe is None:
        return None
    length = automatic_block_length(series).stationary if block is None else block
    count = series.size
    sums = resampled_means(
        np.column_stack([series, series**2]), block=length, replications=replications, seed=seed
    )  # [R, 2]
    variance = resampled_variance(sums[:, :1], sums[:, 1:], series[:, None])[:, 0]  # [R]
    moving = variance > 0.0
    draws = sums[moving, 0] / np.sqrt(variance[moving])
    if draws.size == 0:
        return None
    if method == "percentile":
        return percentile_interval(draws, level)
    if method != "bca":
        raise ValueError(f"method is 'percentile' or 'bca', got {method!r}")
    rest = count - 1
    mean = (series.sum() - series) / rest  # [T]  the mean with one bar left out
    deviation = np.sqrt(((series**2).sum() - series**2 - rest * mean**2) / (rest - 1))
    return bca_interval(sharpe, draws, mean / deviation, level)
