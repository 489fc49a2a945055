"""How far a dreamed market resembles the one it was dreamed of: stylised facts, and a judge.

Facts (Cont 2001): fat tails, no autocorrelation of returns, volatility that clusters and that rises after
falls, and how deep and how often prices fall from a peak; each with a bootstrap interval of blocks that are
long enough to hold a cluster. The judge is a logistic regression that is shown stretches of both markets and
asked which is which (Friedman 2003); its area under the curve is 0.5 for a dream that cannot be told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.resampling import percentile_interval, stationary_bootstrap

Floats = NDArray[np.float64]

BLOCK = 240.0  # bars, mean length of the blocks of the bootstrap
LAG = 24
WINDOW = 240  # bars of one drawdown
STRETCH = 32  # bars that the judge is shown at a time
_RIDGE = 1.0  # of the judge's weights, against as many observations as there are
_ROUNDS = 50

FACTS = (
    "deviation",
    "kurtosis",
    "autocorrelation_r_1",
    "autocorrelation_abs_r_1",
    f"autocorrelation_abs_r_{LAG}",
    "leverage_effect",
    "drawdown_median",
    "drawdown_95",
)


class Estimate(NamedTuple):
    """A figure with its interval."""

    value: float
    low: float
    high: float


def facts(log_returns: Floats) -> Floats:
    """`FACTS` of one market's returns `[T, S]`, averaged over the symbols: `[F]`."""
    return np.asarray(np.mean([_facts(column) for column in np.asarray(log_returns).T], axis=0))


def _facts(r: Floats) -> Floats:
    centred, size = r - r.mean(), np.abs(r)
    variance = float(np.mean(centred**2))
    if variance == 0.0:
        raise ValueError("the market stands still: its returns have no law")
    # What a move says of the volatility after it: negative where falls are followed by unrest.
    ahead = np.convolve(size, np.ones(LAG) / LAG, "valid")[1:]
    falls = _drawdowns(r)
    return np.array(
        [
            np.sqrt(variance),
            np.mean(centred**4) / variance**2 - 3.0,
            _correlation(r[:-1], r[1:]),
            _correlation(size[:-1], size[1:]),
            _correlation(size[:-LAG], size[LAG:]),
            _correlation(r[: len(ahead)], ahead),
            np.quantile(falls, 0.5),
            np.quantile(falls, 0.95),
        ]
    )


def _correlation(a: Floats, b: Floats) -> float:
    return float(np.corrcoef(a, b)[0, 1])


def _drawdowns(r: Floats) -> Floats:
    """The deepest fall from a peak, as a share, in each window of `WINDOW` bars."""
    windows = r[: len(r) // WINDOW * WINDOW].reshape(-1, WINDOW)
    price = np.cumsum(windows, axis=1)
    peaks = np.maximum(np.maximum.accumulate(price, axis=1), 0.0)
    return np.asarray(1.0 - np.exp((price - peaks).min(axis=1)))


def estimates(log_returns: Floats, *, replications: int, level: float, seed: int) -> dict[str, Estimate]:
    """`FACTS` of `log_returns` [T, S] with percentile intervals. Consumes `seed`."""
    found = facts(log_returns)
    drawn = stationary_bootstrap(log_returns, facts, block=BLOCK, replications=replications, seed=seed)
    return {
        name: Estimate(float(found[i]), *percentile_interval(drawn[:, i], level))
        for i, name in enumerate(FACTS)
    }


def stretches(*columns: Floats) -> Floats:
    """What the judge is shown of each stretch of `STRETCH` bars `[K, J]`, of columns `[T]` (returns first).

    Means, deviations, extremes, tails and memory of each; it gets squares of these as well.
    """
    parts: list[Floats] = []
    for column in columns:
        rows = column[: len(column) // STRETCH * STRETCH].reshape(-1, STRETCH)
        centred = rows - rows.mean(axis=1, keepdims=True)
        spread = np.maximum(centred.std(axis=1), 1e-12)
        size = np.abs(rows)
        parts += [
            rows.mean(axis=1),
            np.log(spread),
            rows.max(axis=1),
            rows.min(axis=1),
            (centred**4).mean(axis=1) / spread**4,
            (centred**3).mean(axis=1) / spread**3,
            (centred[:, 1:] * centred[:, :-1]).mean(axis=1) / spread**2,
            np.log(np.maximum(size.mean(axis=1), 1e-12)) - np.log(spread),
            np.log(np.maximum(size[:, STRETCH // 2 :].mean(axis=1), 1e-12))
            - np.log(np.maximum(size[:, : STRETCH // 2].mean(axis=1), 1e-12)),
        ]
    return np.stack(parts, axis=1)


def judged(
    source: Sequence[Floats], dream: Sequence[Floats], *, replications: int, level: float, seed: int
) -> Estimate:
    """The area under the curve of a judge that learns on the first part of both and is asked about the rest.

    Args:
        source, dream: one `[K, J]` a symbol, from `stretches`; the first 60 % of each teaches.
    """
    parts = [[_cut(table) for table in tables] for tables in (source, dream)]
    taught, asked = (
        [np.concatenate([cut[which] for cut in tables]) for tables in parts] for which in range(2)
    )
    rows = np.concatenate(taught)
    centre, scale = rows.mean(axis=0), np.maximum(rows.std(axis=0), 1e-12)

    def shown(table: Floats) -> Floats:
        x = np.clip((table - centre) / scale, -5.0, 5.0)
        return np.concatenate([np.ones((len(x), 1)), x, x**2], axis=1)

    weights = _logistic(shown(rows), np.repeat([0.0, 1.0], [len(part) for part in taught]))
    scores = [shown(table) @ weights for table in asked]
    draw = np.random.default_rng(seed)
    drawn = [
        area(*(part[draw.integers(0, len(part), len(part))] for part in scores)) for _ in range(replications)
    ]
    return Estimate(area(*scores), *percentile_interval(np.array(drawn), level))


def _cut(table: Floats) -> tuple[Floats, Floats]:
    first = round(0.6 * len(table))
    if first < 2 or len(table) - first < 2:
        raise ValueError(f"{len(table)} stretches of {STRETCH} bars are too few to judge")
    return table[:first], table[first:]


def _logistic(x: Floats, y: Floats) -> Floats:
    """Weights `[J]` of the ridge-penalised logistic regression, both sides weighing the same (Newton)."""
    share = y.mean()
    balance = np.where(y > 0.5, 0.5 / share, 0.5 / (1.0 - share))
    weights = np.zeros(x.shape[1])
    penalty = _RIDGE * np.eye(x.shape[1])
    for _ in range(_ROUNDS):
        p = 1.0 / (1.0 + np.exp(-np.clip(x @ weights, -30.0, 30.0)))
        slope = x.T @ (balance * (p - y)) + _RIDGE * weights
        step = np.linalg.solve((x * (balance * p * (1.0 - p))[:, None]).T @ x + penalty, slope)
        weights -= step
        if np.abs(step).max() < 1e-8:
            break
    return weights


def area(negative: Floats, positive: Floats) -> float:
    """The chance that a positive score is above a negative one, ties by half (Mann and Whitney)."""
    from scipy.stats import rankdata  # late: of all that is imported here the slowest by far

    ranks = rankdata(np.concatenate([negative, positive]))[len(negative) :]
    return float((ranks.sum() - len(positive) * (len(positive) + 1) / 2) / (len(positive) * len(negative)))
