"""The embedded market: candles of as many symbols as asked for, and the truth behind them.

Two kinds. ``regimes`` is the default of the whole experiment: an edge that is really there and really small.
``martingale`` is the same market, regimes and tails and volume alike, with the edge taken out: the expected
simple return of the next bar, from close to close and from open to open, is exactly zero whatever the past.

The law of the closes is in `pipelines.sources.regimes`. Here closes become candles:

- Prices lie on a tick grid, a power of ten that leaves six significant digits to the price, as exchanges set
  it. A close is rounded up or down at random so that its expectation is untouched (rounding to the nearest
  tick would leave a trace of an edge); signals are then computed from the rounded closes, so what the truth
  says follows from the published candles alone.
- The open is the close before, one bar in ten off by one tick to either side.
- High and low are the extremes of a Brownian bridge from open to close whose width is the bar's *activity*:
  the mean of its squared return and of the recent variance. Volume follows the same activity with persistent
  noise. Activity is computed from closes, so neither range nor volume says more about the regime than closes
  do.

Every ingredient has its own random stream, keyed by seed and symbol name. Hence: the same arguments give the
same bytes; more bars leave the earlier ones as they were; another symbol leaves the candles of the others
unchanged to the bit (chain, tails and common factor have streams of their own). Only the *filtered* columns
of the truth then change, because the filter reads all symbols and now has more evidence.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.candles import SCHEMA, interval_ms
from pipelines.sources.regimes import (
    Beliefs,
    Dynamics,
    Floats,
    Noise,
    RegimeParameters,
    dynamics,
    oracle_filter,
    regime_path,
    walk,
)

Kind = Literal["regimes", "martingale"]
KINDS: tuple[Kind, ...] = ("regimes", "martingale")

_TRUTH_COLUMNS: dict[str, pl.DataType | type[pl.DataType]] = {
    "symbol": pl.String,
    "open_time": pl.Datetime("ms", "UTC"),
    "regime": pl.Int8,
    "mean": pl.Float64,
    "variance": pl.Float64,
    "filtered_mean": pl.Float64,
    "filtered_variance": pl.Float64,
    "p_trend": pl.Float64,
    "p_reversion": pl.Float64,
    "p_turbulence": pl.Float64,
}
TRUTH_SCHEMA = pl.Schema(_TRUTH_COLUMNS)

_HOUR_MS = 3_600_000


class Simulated(NamedTuple):
    """Candles (`pipelines.candles.SCHEMA`) and, row for row, their truth (`TRUTH_SCHEMA`).

    Row t of the truth is known at the close of bar t and speaks of the log return from close t to close t +
    1. `regime` (index into `REGIMES`) governs that return; `mean` and `variance` are its moments given the
    whole past and the regime; `filtered_*` and `p_*` are what the filter that knows the parameters but sees
    only the closes up to t makes of it. An honest oracle uses the filtered columns.
    """

    candles: pl.DataFrame
    truth: pl.DataFrame


def simulate_market(
    *,
    kind: Kind = "regimes",
    symbols: Sequence[str],
    interval: str,
    start: datetime,
    bars: int,
    seed: int,
    correlation: float = 0.6,
    parameters: RegimeParameters | None = None,
    initial_price: float = 20_000.0,
) -> Simulated:
    """`bars` candles of each of `symbols` from `start` (UTC if it names no zone); `seed` is consumed.

    `correlation`, in [0, 1), is that of the return shocks between any two symbols, which share the regime.
    """
    _check(kind, symbols, bars, seed, correlation, initial_price)
    length_ms = interval_ms(interval)
    hours = length_ms / _HOUR_MS
    laws = dynamics(parameters or RegimeParameters(), hours, edge=kind == "regimes")
    names = sorted(symbols)
    regime = regime_path(_stream(seed, "regime").random(bars + 1), laws)  # [T + 1] row t governs bar t
    tails = _tails(_stream(seed, "tail").random(bars), laws)  # [T]
    common = _stream(seed, "common").standard_normal(bars)  # [T]
    columns = [
        walk(_draw(seed, name, bars, tails, common, correlation), regime, laws, initial_price, hours)
        for name in names
    ]
    log_returns = np.stack([_log_returns(column) for column in columns], axis=1)  # [T, S]
    beliefs = oracle_filter(log_returns, laws, correlation)
    first = start.replace(tzinfo=UTC) if start.tzinfo is None else start
    first_ms = round(first.timestamp() * 1000)
    times = pl.Series("open_time", first_ms + length_ms * np.arange(bars)).cast(pl.Datetime("ms", "UTC"))
    candles = pl.concat([_candles(name, times, column) for name, column in zip(names, columns, strict=True)])
    truth = pl.concat([_truth(name, times, regime[1:], beliefs, i) for i, name in enumerate(names)])
    return Simulated(candles, truth)


def _check(
    kind: str, symbols: Sequence[str], bars: int, seed: int, correlation: float, initial_price: float
) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} is unknown; allowed: {', '.join(KINDS)}")
    if isinstance(symbols, str) or not symbols or len(set(symbols)) != len(symbols):
        raise ValueError(f"symbols must be a non-empty list without repeats, not {symbols!r}")
    if bars < 1:
        raise ValueError(f"bars must be at least 1, not {bars}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, not {seed}")
    if not 0 <= correlation < 1:
        raise ValueError(f"correlation must be in [0, 1), not {correlation}")
    if not 1e-6 <= initial_price <= 1e9:
        raise ValueError(f"initial_price must be in [1e-6, 1e9], not {initial_price}")


def _stream(seed: int, *keys: str) -> np.random.Generator:
    """A generator of its own for each ingredient; keyed by name, so that order and number do not matter."""
    return np.random.default_rng([seed, *(zlib.crc32(key.encode()) for key in keys)])


def _draw(seed: int, name: str, bars: int, tails: Floats, common: Floats, correlation: float) -> Noise:
    own = _stream(seed, name, "shock").standard_normal(bars)
    shock = np.sqrt(tails) * (np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own)
    return Noise(
        shock,
        _stream(seed, name, "rounding").random(bars),
        _stream(seed, name, "gap").random(bars),
        np.log1p(-_stream(seed, name, "high").random(bars)),
        np.log1p(-_stream(seed, name, "low").random(bars)),
        _stream(seed, name, "volume").standard_normal(bars),
    )


def _tails(uniform: Floats, laws: Dynamics) -> Floats:
    """Variance of each bar's shock, drawn from the mixture and shared by all symbols.  # [T]"""
    edges = np.cumsum(laws.tail_probabilities)[:-1]
    return laws.tail_variances[np.searchsorted(edges, uniform, side="right")]


def _log_returns(column: Floats) -> Floats:
    """Close to close; the first bar from its own open, which is the price the market starts at.  # [T]"""
    opens, closes = column[0], column[3]
    return np.diff(np.log(closes), prepend=np.log(opens[0]))


def _candles(name: str, times: pl.Series, column: Floats) -> pl.DataFrame:
    opens, highs, lows, closes, volume = column
    turnover = volume * (opens + highs + lows + closes) / 4
    values = (opens, highs, lows, closes, volume, turnover)
    prices = {key: pl.Series(key, value) for key, value in zip(SCHEMA.names()[2:], values, strict=True)}
    return pl.DataFrame({"open_time": times, **prices}).select(pl.lit(name).alias("symbol"), pl.all())


def _truth(
    name: str, times: pl.Series, regime: NDArray[np.int8], beliefs: Beliefs, index: int
) -> pl.DataFrame:
    rows = np.arange(regime.size)
    frame = pl.DataFrame(
        {
            "open_time": times,
            "regime": regime,
            "mean": beliefs.regime_mean[rows, index, regime],
            "variance": beliefs.regime_variance[rows, index, regime],
            "filtered_mean": np.ascontiguousarray(beliefs.mean[:, index]),
            "filtered_variance": np.ascontiguousarray(beliefs.variance[:, index]),
            "p_trend": np.ascontiguousarray(beliefs.probability[:, 0]),
            "p_reversion": np.ascontiguousarray(beliefs.probability[:, 1]),
            "p_turbulence": np.ascontiguousarray(beliefs.probability[:, 2]),
        }
    )
    return frame.select(pl.lit(name).alias("symbol"), pl.all())
