"""Bootstrap intervals of every headline figure, and bands around an equity curve.

Most figures are functions of means (of r, r², log(1 + r), ...): their resampled means come from one
matrix product. The drawdown and the tails need resampled paths. Both draw the same bars for the same
seed, so that a ratio of the two (Calmar) is taken within one resampled record.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipelines.evaluation.dependence import automatic_block_length, common_block_length
from pipelines.evaluation.resampling import (
    Interval,
    percentile_interval,
    resampled_equity,
    resampled_means,
    resampled_paths,
    resampled_variance,
)

Floats = NDArray[np.float64]

HEADLINES = (
    "total_return",
    "annual_return",
    "volatility",
    "sharpe",
    "sortino",
    "calmar",
    "max_drawdown",
    "value_at_risk_95",
    "expected_shortfall_95",
    "hit_rate",
    "omega",
    "tail_ratio",
)  # as `metrics.path_figures` names them
LARGEST_EXPONENT = 700.0  # e to this is still a float


class Bands(NamedTuple):
    """An equity curve (growth of 1) at chosen bars with pointwise bands."""

    rows: NDArray[np.int64]  # [P] bars
    growth: Floats  # [P]
    low: Floats  # [P]
    high: Floats  # [P]


def headline_intervals(
    returns: ArrayLike,
    periods_per_year: float,
    *,
    block: float | None = None,
    replications: int = 500,
    level: float = 0.95,
    seed: int,
) -> list[dict[str, Interval | None]]:
    """Percentile intervals of `HEADLINES` for each column of `returns` [T, N]. Consumes `seed`.

    None where a figure does not exist (in less than half of the resampled records, or because the
    path is ruined: a return of −100 % ends it).
    """
    table = np.asarray(returns, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    alive = np.flatnonzero((table > -1.0).all(axis=0))
    intervals: list[dict[str, Interval | None]] = [dict.fromkeys(HEADLINES) for _ in table.T]
    if alive.size == 0 or len(table) < 2:
        return intervals
    lived = table[:, alive]
    length = common_block_length(lived) if block is None else block
    figures = _resampled_figures(lived, periods_per_year, length, replications, seed)
    for position, column in enumerate(alive):
        for name in HEADLINES:
            draws = figures[name][:, position]
            draws = draws[np.isfinite(draws)]
            if 2 * draws.size >= replications:
                intervals[column][name] = percentile_interval(draws, level)
    return intervals


def equity_bands(
    returns: ArrayLike,
    *,
    points: int = 200,
    block: float | None = None,
    replications: int = 500,
    level: float = 0.95,
    seed: int,
) -> Bands:
    """Growth of 1 under `returns` [T] with pointwise bands from resampled records. Consumes `seed`."""
    series = np.asarray(returns, dtype=np.float64)
    rows = np.unique(np.linspace(0, series.size - 1, min(points, series.size)).astype(np.int64))
    length = automatic_block_length(series).stationary if block is None else block
    draws = resampled_equity(series, rows, block=length, replications=replications, seed=seed)
    edges = [(1.0 - level) / 2.0, (1.0 + level) / 2.0]
    band: Floats = np.asarray(np.quantile(draws, edges, axis=0), dtype=np.float64)
    growth: Floats = np.asarray(np.cumprod(1.0 + series), dtype=np.float64)[rows]
    return Bands(rows, growth, band[0], band[1])


def _resampled_figures(
    table: Floats, periods_per_year: float, block: float, replications: int, seed: int
) -> dict[str, Floats]:
    """Each headline figure of each resampled record, [R, N]; not finite where it does not exist."""
    length, agents = table.shape
    losses = np.minimum(table, 0.0)
    parts = [table, table**2, np.log1p(table), losses, losses**2, table > 0.0, table != 0.0]
    means = resampled_means(
        np.concatenate(parts, axis=1), block=block, replications=replications, seed=seed
    ).reshape(replications, len(parts), agents)
    mean, square, logarithm, loss, downside, won, moved = (means[:, k] for k in range(len(parts)))
    paths = resampled_paths(table, block=block, replications=replications, seed=seed)
    deviation = np.sqrt(resampled_variance(mean, square, table))
    # A mean of squares that should be zero comes out of the sums as rounding.
    downside = np.where(downside > 1e-14 * np.max(table**2, axis=0), downside, 0.0)
    yearly = logarithm * periods_per_year
    growth = np.where(yearly < LARGEST_EXPONENT, np.expm1(np.minimum(yearly, LARGEST_EXPONENT)), np.nan)
    root = np.sqrt(periods_per_year)
    return {
        "total_return": np.expm1(np.minimum(logarithm * length, LARGEST_EXPONENT)),
        "annual_return": growth,
        "volatility": deviation * root,
        "sharpe": _ratio(mean, deviation) * root,
        "sortino": _ratio(mean, np.sqrt(downside)) * root,
        "calmar": _ratio(growth, -paths.max_drawdown),
        "max_drawdown": paths.max_drawdown,
        "value_at_risk_95": paths.value_at_risk,
        "expected_shortfall_95": paths.expected_shortfall,
        "hit_rate": _ratio(won, moved),
        "omega": _ratio(mean - loss, -loss),
        "tail_ratio": _ratio(np.abs(paths.upper_tail), np.abs(paths.value_at_risk)),
    }


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """NaN where the denominator is not above zero (or is the rounding of it)."""
    exists = denominator > 1e-15
    return np.where(exists, numerator / np.where(exists, denominator, 1.0), np.nan)
