"""The figures of one path: what it earned, what it risked, what it paid.

Every function takes simple returns per bar (or equity) and says in its docstring what it means.
Years are counted in bars: `periods_per_year` is always given, because 252 is wrong for a market that
never closes. A figure that does not exist (the Sharpe ratio of a constant, any ratio of a ruined path)
is None, never NaN or infinity.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from pipelines.evaluation.significance import sharpe_ratio

Floats = NDArray[np.float64]

INITIAL_EQUITY = 1e6
COST_ITEMS = ("fees", "spread", "slippage", "impact", "funding", "liquidation")
LEDGER_ITEMS = ("price", *COST_ITEMS)
FLAT_EXPOSURE = 0.01  # below one percent of equity a position counts as none

Summary = dict[str, float | int | bool | None]


class Drawdown(NamedTuple):
    """The deepest fall from a peak as a (negative) share of it, and the longest time below a peak."""

    depth: float
    bars: int


class Path(NamedTuple):
    """One path of an account, cut at its ruin."""

    equity: Floats  # [T] at the close of each bar
    returns: Floats  # [T] simple
    initial: float
    ruined: bool


def simple_returns(equity: ArrayLike, initial: float) -> Floats:
    """Returns [T] of `equity` [T], the first one over `initial`."""
    levels = np.asarray(equity, dtype=np.float64)
    return np.asarray(levels / np.concatenate([[initial], levels[:-1]]) - 1.0)


def total_return(returns: ArrayLike) -> float:
    """Compounded return of the whole path."""
    return float(np.prod(1.0 + np.asarray(returns, dtype=np.float64)) - 1.0)


def annual_return(returns: ArrayLike, periods_per_year: float) -> float | None:
    """Compound growth a year, with the years counted in bars; None for a path that lost everything."""
    series = np.asarray(returns, dtype=np.float64)
    if series.size == 0 or np.any(series <= -1.0):
        return None
    growth = float(np.log1p(series).sum()) * periods_per_year / series.size
    # A handful of lucky bars can compound to more than a float holds; such a figure says nothing.
    return math.expm1(growth) if growth < 700.0 else None


def volatility(returns: ArrayLike, periods_per_year: float) -> float | None:
    """Standard deviation (ddof = 1) a year; None for fewer than two bars."""
    series = np.asarray(returns, dtype=np.float64)
    return float(series.std(ddof=1)) * math.sqrt(periods_per_year) if series.size > 1 else None


def sharpe(returns: ArrayLike, periods_per_year: float) -> float | None:
    """Mean over standard deviation (ddof = 1), annualised by √periods; None without dispersion."""
    ratio = sharpe_ratio(returns)
    return None if ratio is None else ratio * math.sqrt(periods_per_year)


def sortino(returns: ArrayLike, periods_per_year: float) -> float | None:
    """Mean over √mean(min(r, 0)²), annualised; None without a loss."""
    series = np.asarray(returns, dtype=np.float64)
    if series.size == 0:
        return None
    downside = float(np.sqrt(np.mean(np.minimum(series, 0.0) ** 2)))
    return float(series.mean()) / downside * math.sqrt(periods_per_year) if downside > 0.0 else None


def drawdown(equity: ArrayLike, initial: float | None = None) -> Drawdown:
    """Deepest fall and longest time below a peak of `equity` [T]; `initial` counts as the first peak."""
    levels = np.asarray(equity, dtype=np.float64)
    if initial is not None:
        levels = np.concatenate([[initial], levels])
    peaks = np.maximum.accumulate(levels)
    below = levels < peaks
    ends = np.flatnonzero(~below)
    # Lengths of the runs of bars between two peaks, the last one open.
    runs = np.diff(np.concatenate([ends, [len(levels)]])) - 1
    return Drawdown(depth=float(np.min(levels / peaks - 1.0)), bars=int(runs.max()))


def calmar(returns: ArrayLike, periods_per_year: float) -> float | None:
    """Annual return over the depth of the deepest drawdown; None without a drawdown."""
    series = np.asarray(returns, dtype=np.float64)
    growth = annual_return(series, periods_per_year)
    if growth is None:
        return None
    depth = drawdown(np.cumprod(1.0 + series), 1.0).depth
    return growth / -depth if depth < 0.0 else None


def hit_rate(returns: ArrayLike) -> float | None:
    """Share of winning bars among the bars that won or lost; None if nothing ever moved."""
    series = np.asarray(returns, dtype=np.float64)
    moved = int(np.count_nonzero(series))
    return int(np.count_nonzero(series > 0.0)) / moved if moved else None


def omega(returns: ArrayLike, threshold: float = 0.0) -> float | None:
    """Sum of gains over sum of losses against `threshold`; None without a loss."""
    distance = np.asarray(returns, dtype=np.float64) - threshold
    losses = -float(np.minimum(distance, 0.0).sum())
    return float(np.maximum(distance, 0.0).sum()) / losses if losses > 0.0 else None


def value_at_risk(returns: ArrayLike, tail: float = 0.05) -> float:
    """Historical quantile of the returns (a loss is negative), linear between order statistics."""
    return float(np.quantile(np.asarray(returns, dtype=np.float64), tail))


def expected_shortfall(returns: ArrayLike, tail: float = 0.05) -> float:
    """Mean of the returns at or below the historical value at risk (CVaR; no normal law assumed)."""
    series = np.asarray(returns, dtype=np.float64)
    return float(series[series <= np.quantile(series, tail)].mean())


def tail_ratio(returns: ArrayLike, tail: float = 0.05) -> float | None:
    """|upper quantile| over |lower quantile|; None where the lower one is zero."""
    low, high = np.quantile(np.asarray(returns, dtype=np.float64), [tail, 1.0 - tail])
    return float(abs(high) / abs(low)) if low != 0.0 else None


def exposure_histogram(exposure: ArrayLike, edges: ArrayLike) -> Floats:
    """Share of time in each bin between `edges` [K + 1], [K]; what lies outside counts to the end bins."""
    borders = np.asarray(edges, dtype=np.float64)
    values = np.clip(np.asarray(exposure, dtype=np.float64), borders[0], borders[-1])
    counts, _ = np.histogram(values, bins=borders)
    return counts / max(1, values.size)


def cost_waterfall(frame: pl.DataFrame, initial_equity: float = INITIAL_EQUITY) -> dict[str, float]:
    """Each ledger item of a path summed, as a share of the initial equity; they add up to `net`."""
    shares = {name: float(frame[name].sum()) / initial_equity for name in LEDGER_ITEMS}
    return shares | {"net": math.fsum(shares.values())}


def path_of(frame: pl.DataFrame, initial_equity: float = INITIAL_EQUITY) -> Path:
    """The path of one fold and seed (or a chained one) from the result table, sorted by time.

    Equity of zero or less is ruin: the path ends with that bar.
    """
    if frame.is_empty():
        raise ValueError("a path has at least one bar")
    ordered = frame.sort("open_time")
    equity = ordered["equity"].to_numpy().astype(np.float64)
    lost = np.flatnonzero(equity <= 0.0)
    if lost.size:
        equity = equity[: lost[0] + 1]
    if not np.isfinite(equity).all():
        raise ValueError("equity must be finite up to the ruin")
    return Path(
        equity=equity,
        returns=simple_returns(equity, initial_equity),
        initial=initial_equity,
        ruined=bool(lost.size) or bool(ordered["ruined"].any()),
    )


def chain(frame: pl.DataFrame, initial_equity: float = INITIAL_EQUITY) -> pl.DataFrame:
    """The folds of one agent and seed as one walk-forward path that reinvests.

    Each fold restarts at the initial equity; here it starts with what the fold before it left, and
    its money items are scaled along, so that they still add up to the change in equity. After a ruin
    nothing follows.
    """
    parts: list[pl.DataFrame] = []
    start = initial_equity
    for (_,), fold in frame.sort("open_time").group_by("fold", maintain_order=True):
        path = path_of(fold, initial_equity)
        scale = start / initial_equity
        parts.append(
            fold.head(len(path.equity)).with_columns(pl.col("equity", *LEDGER_ITEMS).cast(pl.Float64) * scale)
        )
        start *= float(path.equity[-1]) / initial_equity
        if path.ruined:
            break
    return pl.concat(parts)


def figure(value: float | None) -> float | None:
    """A number for people and for `dvc metrics diff`: six significant digits; NaN is an error."""
    if value is None:
        return None
    if not math.isfinite(value):
        raise ValueError(f"a figure must be finite, got {value}")
    return float(f"{value:.6g}")


def path_figures(path: Path, periods_per_year: float) -> dict[str, float | None]:
    """The return and risk figures of a path, unrounded; ratios are None for a ruined one."""
    returns = path.returns
    fall = drawdown(path.equity, path.initial)
    figures: dict[str, float | None] = {
        "total_return": float(path.equity[-1]) / path.initial - 1.0,
        "max_drawdown": fall.depth,
        "max_drawdown_bars": float(fall.bars),
        "value_at_risk_95": value_at_risk(returns),
        "expected_shortfall_95": expected_shortfall(returns),
        "hit_rate": hit_rate(returns),
    }
    ratios: dict[str, float | None] = {
        "annual_return": annual_return(returns, periods_per_year),
        "volatility": volatility(returns, periods_per_year),
        "sharpe": sharpe(returns, periods_per_year),
        "sortino": sortino(returns, periods_per_year),
        "calmar": calmar(returns, periods_per_year),
        "omega": omega(returns),
        "tail_ratio": tail_ratio(returns),
    }
    return figures | (dict.fromkeys(ratios) if path.ruined else ratios)


def summarise(
    frame: pl.DataFrame, periods_per_year: float, initial_equity: float = INITIAL_EQUITY
) -> Summary:
    """Few, named, rounded figures of one path of the result table; safe to write as JSON.

    Args:
        frame: the rows of one agent, fold and seed, or a `chain` of folds.

    Returns:
        The figures of `path_figures`, turnover a year, exposure and the costs as shares of the
        initial equity. `bars` counts up to the ruin.
    """
    ordered = frame.sort("open_time")
    path = path_of(ordered, initial_equity)
    lived = ordered.head(len(path.equity))
    net = net_exposure(lived)
    summary: Summary = {"bars": len(path.equity), "ruined": path.ruined}
    summary |= {name: figure(value) for name, value in path_figures(path, periods_per_year).items()}
    summary["max_drawdown_bars"] = drawdown(path.equity, path.initial).bars
    summary["turnover_per_year"] = figure(_mean(lived["turnover"]) * periods_per_year)
    summary["gross_exposure"] = figure(_mean(lived["gross_exposure"]))
    summary["time_long"] = figure(float(np.mean(net > FLAT_EXPOSURE)))
    summary["time_short"] = figure(float(np.mean(net < -FLAT_EXPOSURE)))
    waterfall = cost_waterfall(lived, initial_equity)
    summary |= {f"cost_{name}": figure(waterfall[name]) for name in COST_ITEMS}
    summary["cost_total"] = figure(math.fsum(waterfall[name] for name in COST_ITEMS))
    summary["gross_return"] = figure(waterfall["price"])
    return summary


def net_exposure(frame: pl.DataFrame) -> Floats:
    """Signed exposure over all symbols at each close, as a fraction of equity; [T]."""
    columns = [name for name in frame.columns if name.startswith("exposure_")]
    if not columns:
        raise ValueError("the result table has no exposure_<SYMBOL> column")
    return np.asarray(frame.select(pl.sum_horizontal(columns)).to_series().to_numpy(), dtype=np.float64)


def _mean(column: pl.Series) -> float:
    return float(np.mean(column.to_numpy()))
