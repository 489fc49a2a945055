"""The features: dimensionless, of one symbol's candles up to and including the bar they stand at.

None depends on the level of the price or the unit of the volume, so that one scale serves years and
symbols. Where nothing happens (no range, no volume, no movement) a feature has a neutral value, stated in
its docstring, instead of a division by zero.

The indicators people know (`relative_strength_index`, `moving_average_convergence`, `bollinger_bands`,
`average_true_range`) are functions of their own in their usual units; the features are made from them.

Exponential averages remember everything. Their warm-up is the number of bars after which the start weighs
less than a thousandth (`memory`), so that a window that starts later gives the same numbers to that part.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import polars as pl

from pipelines.features.registry import feature

DEFAULT_FEATURES = (
    "log_return",
    "range",
    "body",
    "relative_volume",
    "realised_volatility",
    "moving_average_ratio",
    "moving_average_ratio(96)",
    "momentum",
    "momentum(168)",
    "rsi",
    "macd",
    "macd_histogram",
    "bollinger_position",
    "atr",
    "volatility_regime",
    "trend_strength",
)

_FORGOTTEN = 1e-3

_open, _high, _low, _close = (pl.col(name) for name in ("open", "high", "low", "close"))
_volume = pl.col("volume")
_change = _close.diff()
_log_return = (_close / _close.shift(1)).log()
_bar = pl.int_range(pl.len())
# Bars whose close differs from the one before, and bars with volume, as the number of the latest one so far.
_last_move = pl.when(_change != 0).then(_bar).forward_fill().fill_null(0)
_last_trade = pl.when(_volume > 0).then(_bar).forward_fill().fill_null(-1)


def memory(alpha: float) -> int:
    """Bars after which the start of an exponential average weighs less than a thousandth."""
    return 1 if alpha >= 1 else math.ceil(math.log(_FORGOTTEN) / math.log1p(-alpha))


def exponential_average(values: pl.Expr, alpha: float) -> pl.Expr:
    """`y_t = (1 - alpha) y_{t-1} + alpha x_t`, started at the first value."""
    return values.ewm_mean(alpha=alpha, adjust=False)


def _neutral_where(still: pl.Expr, value: pl.Expr, neutral: float = 0.0) -> pl.Expr:
    # The condition leads, so that a null one (warm-up) leaves the value's own null standing.
    return pl.when(still).then(pl.lit(neutral)).otherwise(value)


def _still(moves: int) -> pl.Expr:
    """Whether none of the last `moves` changes of the close moved it.

    Exact where a rolling sum is not: it keeps a crumb of what has left its window, and a crumb divided by a
    crumb can be anything.
    """
    return _bar - _last_move >= moves


# The indicators, in their usual units.


def relative_strength_index(window: int = 14) -> pl.Expr:
    """Wilder's RSI, 0 to 100, with averages started at 0 at the first bar; 50 where nothing moved."""
    gain = exponential_average(_change.clip(lower_bound=0).fill_null(0), 1 / window)
    loss = exponential_average((-_change).clip(lower_bound=0).fill_null(0), 1 / window)
    return _neutral_where(gain + loss <= 0, 100 * gain / (gain + loss), 50.0)


class Convergence(NamedTuple):
    """MACD in units of the price."""

    line: pl.Expr
    signal: pl.Expr
    histogram: pl.Expr


def moving_average_convergence(fast: int = 12, slow: int = 26, signal: int = 9) -> Convergence:
    """MACD: the fast exponential average of the close less the slow one, and that line's own average."""
    line = exponential_average(_close, _span(fast)) - exponential_average(_close, _span(slow))
    average = exponential_average(line, _span(signal))
    return Convergence(line, average, line - average)


class Bands(NamedTuple):
    """Bollinger bands in units of the price."""

    middle: pl.Expr
    deviation: pl.Expr


def bollinger_bands(window: int = 20) -> Bands:
    """Mean and population standard deviation of the last `window` closes."""
    return Bands(_close.rolling_mean(window), _close.rolling_std(window, ddof=0))


def true_range() -> pl.Expr:
    """The bar's range, the gap from the close before included; the first bar has its own range alone."""
    before = _close.shift(1)
    return pl.max_horizontal(_high, before) - pl.min_horizontal(_low, before)


def average_true_range(window: int = 14) -> pl.Expr:
    """Wilder's ATR, started at bar `window` with the mean of the first `window` true ranges."""
    ranges = true_range()
    started = (
        pl.when(_bar >= window)
        .then(ranges)
        .when(_bar == window - 1)
        .then(ranges.head(window).mean())
        .otherwise(None)
    )
    return exponential_average(started, 1 / window)


def root_mean_square_return(window: int) -> pl.Expr:
    """Root mean square of the log returns of `window` bars: volatility a bar, about a mean of zero."""
    square = (_log_return**2).rolling_mean(window).clip(lower_bound=0).sqrt()
    return _neutral_where(_still(window), square)


def _span(window: int) -> float:
    return 2 / (window + 1)


# The features.


@feature("log_return", window=1)
def log_return(window: int) -> pl.Expr:
    """Log return of the close over `window` bars."""
    return (_close / _close.shift(window)).log()


@feature("range", warm_up=lambda: 0)
def bar_range() -> pl.Expr:
    """Log of high over low; 0 for a flat bar."""
    return (_high / _low).log()


@feature("body", warm_up=lambda: 0)
def body() -> pl.Expr:
    """Close less open as a share of the bar's range, -1 to 1; 0 for a flat bar."""
    return _neutral_where(_high <= _low, (_close - _open) / (_high - _low))


@feature("relative_volume", window=24, warm_up=lambda window: window - 1)
def relative_volume(window: int) -> pl.Expr:
    """Log of (1 + volume over its mean of `window` bars), less log 2; 0 at the mean or without any volume."""
    ratio = _volume / _volume.rolling_mean(window)
    return _neutral_where(_bar - _last_trade >= window, ratio.log1p() - math.log(2))


@feature("realised_volatility", window=24)
def realised_volatility(window: int) -> pl.Expr:
    """Root mean square of `window` log returns, a bar; 0 where nothing moved."""
    return root_mean_square_return(window)


@feature("moving_average_ratio", window=24, warm_up=lambda window: window - 1)
def moving_average_ratio(window: int) -> pl.Expr:
    """Log of the close over its mean of `window` bars."""
    return (_close / _close.rolling_mean(window)).log()


@feature("momentum", window=24)
def momentum(window: int) -> pl.Expr:
    """Log return over `window` bars in standard deviations of such a return; 0 where nothing moved."""
    deviation = root_mean_square_return(window) * math.sqrt(window)
    return _neutral_where(_still(window), log_return(window) / deviation)


@feature("rsi", window=14, warm_up=lambda window: memory(1 / window))
def rsi(window: int) -> pl.Expr:
    """Wilder's relative strength index, mapped from 0..100 to -1..1; 0 where nothing moved."""
    return relative_strength_index(window) / 50 - 1


@feature("macd", fast=12, slow=26, warm_up=lambda fast, slow: memory(_span(max(fast, slow))))
def macd(fast: int, slow: int) -> pl.Expr:
    """MACD line as a share of the close."""
    return moving_average_convergence(fast, slow).line / _close


@feature(
    "macd_histogram",
    fast=12,
    slow=26,
    signal=9,
    warm_up=lambda fast, slow, signal: memory(_span(max(fast, slow))) + memory(_span(signal)),
)
def macd_histogram(fast: int, slow: int, signal: int) -> pl.Expr:
    """MACD line less its own average, as a share of the close."""
    return moving_average_convergence(fast, slow, signal).histogram / _close


@feature("bollinger_position", window=20, width=2.0, warm_up=lambda window, width: window - 1)
def bollinger_position(window: int, width: float) -> pl.Expr:
    """Where the close lies between the bands: -1 at the lower, 1 at the upper; 0 where nothing moved."""
    bands = bollinger_bands(window)
    # No value of a sample lies further than sqrt(n - 1) deviations from its mean; rounding might.
    furthest = math.sqrt(max(window - 1, 0)) / width
    position = (_close - bands.middle) / (width * bands.deviation)
    return _neutral_where(_still(window - 1), position.clip(-furthest, furthest))


@feature("atr", window=14, warm_up=lambda window: window - 1 + memory(1 / window))
def atr(window: int) -> pl.Expr:
    """Wilder's average true range as a share of the close; 0 where nothing moved."""
    return average_true_range(window) / _close


@feature("volatility_regime", short=24, long=168, warm_up=lambda short, long: max(short, long))
def volatility_regime(short: int, long: int) -> pl.Expr:
    """Recent volatility against usual, (s - l) / (s + l), -1 to 1; 0 when equal or where nothing moved."""
    ratio = root_mean_square_return(short) / root_mean_square_return(long)
    # (s - l) / (s + l), written so that each volatility is computed once.
    return _neutral_where(_still(max(short, long)), (ratio.log() / 2).tanh())


@feature("trend_strength", window=48)
def trend_strength(window: int) -> pl.Expr:
    """Kaufman's efficiency ratio, signed: net move over path walked, -1 to 1; 0 where nothing moved."""
    path = _change.abs().rolling_sum(window)
    return _neutral_where(_still(window), ((_close - _close.shift(window)) / path).clip(-1, 1))
