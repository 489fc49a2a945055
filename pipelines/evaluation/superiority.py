"""Is any of many candidates better than the benchmark, or is the best one only the luckiest?

The superior predictive ability test of Hansen (2005), studentised; White's (2000) reality check; the
step-down tests of Romano and Wolf (2005), which say WHICH candidates are better at one family-wise
error; and the model confidence set of Hansen, Lunde and Nason (2011). All take returns, where more is
better, and all keep the dependence between candidates by drawing the same bars for all of them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipelines.evaluation.resampling import resampled_means, stationary_variance

Floats = NDArray[np.float64]


class Excess(NamedTuple):
    """Mean excess of candidates over a benchmark and its bootstrap law, in standard errors."""

    t_values: Floats  # [N]  √n d̄ / ω; 0 for a candidate that is the benchmark
    draws: Floats  # [R, N]  √n (d̄* − d̄) / ω
    omega: Floats  # [N]  long-run standard deviation of the excess
    observations: int


class Superiority(NamedTuple):
    """Hansen's test of "no candidate is better than the benchmark"; the consistent p-value is the one."""

    statistic: float
    lower: float
    consistent: float
    upper: float
    omega: Floats  # [N]


class RealityCheck(NamedTuple):
    """White's test of the same hypothesis: not studentised, and weakened by poor candidates."""

    statistic: float
    p_value: float


class ConfidenceSet(NamedTuple):
    """The candidates that cannot be told apart from the best one."""

    included: NDArray[np.bool_]  # [N]
    p_values: Floats  # [N]


def excess(
    benchmark: ArrayLike | float, candidates: ArrayLike, *, block: float, replications: int, seed: int
) -> Excess:
    """Bootstrap of the mean of `candidates` [T, N] minus `benchmark` ([T] or one number).

    Consumes `seed`: the same seed gives the same bars for every benchmark.
    """
    difference = _difference(benchmark, candidates)
    means = resampled_means(difference, block=block, replications=replications, seed=seed)
    return excess_from_means(difference, means, block=block)


def excess_from_means(difference: Floats, means: Floats, *, block: float) -> Excess:
    """The same from resampled `means` [R, N] of `difference` [T, N] that were drawn before."""
    length = len(difference)
    mean = difference.mean(axis=0)  # [N]
    omega = np.sqrt(stationary_variance(difference, block))
    scale = np.max(np.abs(difference), axis=0)
    moves = omega > 1e-12 * scale
    # Without dispersion there is no error: a constant excess is infinitely many standard errors away,
    # which the largest finite number stands for; a candidate that is the benchmark is at 0.
    certain = np.where(np.abs(mean) > 0.0, np.copysign(np.finfo(np.float64).max, mean), 0.0)
    divisor = np.where(moves, omega, 1.0)
    t_values = np.where(moves, np.sqrt(length) * mean / divisor, certain)
    draws = np.where(moves, np.sqrt(length) * (means - mean) / divisor, 0.0)
    return Excess(t_values=t_values, draws=draws, omega=omega, observations=length)


def superior_predictive_ability(
    benchmark: ArrayLike | float, candidates: ArrayLike, *, block: float, replications: int, seed: int
) -> Superiority:
    """Studentised SPA test of Hansen (2005). Consumes `seed`.

    Args:
        benchmark: returns [T] of the benchmark, or one number for all bars (0.0: doing nothing).
        candidates: returns [T, N].
        block: expected block length of the stationary bootstrap, in bars.
    """
    return spa_test(excess(benchmark, candidates, block=block, replications=replications, seed=seed))


def spa_test(sample: Excess) -> Superiority:
    """The three p-values of Hansen (2005), section 3, from bootstrapped excesses."""
    t_values = sample.t_values
    statistic = max(0.0, float(t_values.max()))
    # Candidates far below the benchmark are kept from weakening the test (eq. 6: threshold √(2 log log n)).
    threshold = -np.sqrt(2.0 * np.log(np.log(max(sample.observations, 3))))
    centres = {
        "lower": np.maximum(t_values, 0.0),
        "consistent": np.where(t_values >= threshold, t_values, 0.0),
        "upper": t_values,
    }
    p_values = {}
    for name, centre in centres.items():
        # draws + t is the studentised resampled mean; `shift` is written so that a t of the largest
        # finite number cancels exactly.
        shift = t_values - centre
        best = np.maximum((sample.draws + shift).max(axis=1), 0.0)  # [R]
        # ≥, not >: when no candidate beats the benchmark the statistic is 0 and the p-value must be 1.
        p_values[name] = float(np.mean(best >= statistic))
    return Superiority(statistic=statistic, omega=sample.omega, **p_values)


def reality_check(
    benchmark: ArrayLike | float, candidates: ArrayLike, *, block: float, replications: int, seed: int
) -> RealityCheck:
    """White's (2000) reality check; arguments as in `superior_predictive_ability`."""
    difference = _difference(benchmark, candidates)
    means = resampled_means(difference, block=block, replications=replications, seed=seed)
    root = np.sqrt(len(difference))
    mean = difference.mean(axis=0)
    statistic = float(root * mean.max())
    best = root * (means - mean).max(axis=1)  # [R]
    return RealityCheck(statistic, float(np.mean(best >= statistic)))


def stepwise_p_values(t_values: ArrayLike, draws: ArrayLike) -> Floats:
    """p-values [N] of "t > 0" adjusted so that ANY false claim has at most the stated probability.

    Step-down maximum of Romano and Wolf (2005; p-values: 2016, algorithm 2.1): the largest t against
    the law of the largest of all, the next against the law of the largest of the rest, and so on.

    Args:
        t_values: [N]
        draws: [R, N] centred bootstrap law of the t values, dependence between columns kept.
    """
    observed = np.asarray(t_values, dtype=np.float64)
    law = np.asarray(draws, dtype=np.float64)
    order = np.argsort(-observed, kind="stable")
    # Largest of the k-th best candidate and all behind it, per replication.
    largest = np.maximum.accumulate(law[:, order[::-1]], axis=1)[:, ::-1]  # [R, N]
    exceeded = (largest >= observed[order]).sum(axis=0)
    stepped = np.maximum.accumulate((1.0 + exceeded) / (1.0 + len(law)))
    adjusted = np.empty_like(stepped)
    adjusted[order] = stepped
    return adjusted


def critical_value(draws: ArrayLike, level: float = 0.05) -> float:
    """t that the best of all candidates reaches by luck with probability `level`."""
    return float(np.quantile(np.asarray(draws).max(axis=1), 1.0 - level))


def model_confidence_set(
    returns: ArrayLike,
    *,
    block: float,
    replications: int,
    seed: int,
    size: float = 0.10,
    method: str = "R",
) -> ConfidenceSet:
    """Candidates [N] among `returns` [T, N] that hold the best one with probability 1 − `size`.

    `arch` computes it. It fails on identical columns, of which one is therefore given to it and the
    others share its fate. Consumes `seed`.
    """
    from arch.bootstrap import MCS

    table = np.asarray(returns, dtype=np.float64)
    distinct, inverse = np.unique(table, axis=1, return_inverse=True)
    if distinct.shape[1] == 1:
        return ConfidenceSet(np.ones(table.shape[1], dtype=np.bool_), np.ones(table.shape[1]))
    # The columns go in by first appearance, so that a record without twins is untouched.
    first = np.unique(inverse, return_index=True)[1]
    columns = np.sort(first)
    test = MCS(
        -table[:, columns], size=size, reps=replications, block_size=max(1, round(block)),
        method=method, seed=seed,
    )  # fmt: skip
    test.compute()
    by_column = test.pvalues["Pvalue"]
    p_values = np.array([float(by_column.loc[int(np.searchsorted(columns, first[i]))]) for i in inverse])
    return ConfidenceSet(included=p_values > size, p_values=p_values)


def _difference(benchmark: ArrayLike | float, candidates: ArrayLike) -> Floats:
    table = np.asarray(candidates, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    reference = np.asarray(benchmark, dtype=np.float64)
    if reference.ndim and reference.shape != (len(table),):
        raise ValueError(f"benchmark has shape {reference.shape}, candidates have {len(table)} bars")
    return np.asarray(table - (reference[:, None] if reference.ndim else reference))
