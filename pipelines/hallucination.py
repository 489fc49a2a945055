"""From dreamed returns to candles that every stage can run on.

An agent that dreams a market dreams closes, because closes are what its account is marked at. The rest of a
candle is borrowed: each dreamed bar takes the shape of a real one that it resembles. Two bars resemble each
other where the market around them was about as volatile and they moved about as far for that volatility, so
wide bars follow wide bars, and volume follows volatility, as in the source. What is borrowed is scaled by the
volatility of the moment; open, wicks and close are put together so that no candle can contradict itself.

What is lost: how the noise of volume and of gaps goes on from bar to bar, and which shapes the symbols have
in the same bar. The trend of the volume stays that of the source's usual level.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.candles import conform, interval_ms
from pipelines.market.bars import Bars

Floats = NDArray[np.float64]

_HALF_LIFE = 12.0  # bars, of the volatility by which bars are compared
_NEIGHBOURS = 16  # a shape is drawn from so many of the most similar real bars
_SMALLEST = 1e-6  # volatility a bar, of a market that stands still
_DIGITS = 7  # that the lowest price keeps


class Shapes(NamedTuple):
    """The real bars of one symbol, taken apart; [T] each, prices as logs in units of `volatility`."""

    volatility: Floats
    move: Floats  # close to close
    gap: Floats  # open over the close before
    above: Floats  # high over the higher of open and close
    below: Floats  # the lower of both over low
    volume: Floats


def volatility(log_returns: Floats) -> Floats:
    """Root of the exponential average of squared returns [T], the bar itself included."""
    keep = 0.5 ** (1.0 / _HALF_LIFE)
    squares = log_returns**2
    found = np.empty_like(squares)
    level = float(squares.mean())
    for bar, square in enumerate(squares):
        level = keep * level + (1.0 - keep) * square
        found[bar] = level
    return np.maximum(np.sqrt(found), _SMALLEST)


def take_apart(bars: Bars, symbol: int) -> Shapes:
    """The shapes of all bars but the first, which has no close before it."""
    opened, high, low, close = (np.log(part[:, symbol]) for part in bars[:4])
    moves = np.diff(close)
    width = volatility(moves)
    top, bottom = np.maximum(opened, close)[1:], np.minimum(opened, close)[1:]
    volume = np.zeros(len(moves)) if bars.volume is None else bars.volume[1:, symbol]
    return Shapes(
        width,
        moves / width,
        (opened[1:] - close[:-1]) / width,
        np.maximum(high[1:] - top, 0.0) / width,
        np.maximum(bottom - low[1:], 0.0) / width,
        volume,
    )


def similar(shapes: Shapes, width: Floats, moves: Floats, *, seed: int) -> NDArray[np.int64]:
    """For each dreamed bar with volatility `width` and `moves` in units of it [T], a real bar like it.

    Consumes `seed`.
    """
    draw = np.random.default_rng(seed)

    def place(width: Floats, moves: Floats) -> Floats:
        # A doubling of the volatility counts as much as one standard move.
        return np.stack([np.log2(width), moves], axis=1)

    known, asked = place(shapes.volatility, shapes.move), place(width, moves)
    rank = draw.integers(0, min(_NEIGHBOURS, len(known)), len(asked))
    found = np.empty(len(asked), np.int64)
    for begin in range(0, len(asked), 512):
        part = asked[begin : begin + 512]
        distance = ((part[:, None] - known) ** 2).sum(axis=2)
        nearest = np.argpartition(distance, min(_NEIGHBOURS, len(known)) - 1, axis=1)
        found[begin : begin + 512] = nearest[np.arange(len(part)), rank[begin : begin + 512]]
    return found


def put_together(shapes: Shapes, log_returns: Floats, first_price: float, *, seed: int) -> Bars:
    """Candles [T, 1] whose closes follow `log_returns` [T] from `first_price`; consumes `seed`."""
    width = volatility(log_returns)
    rows = similar(shapes, width, log_returns / width, seed=seed)
    close = np.log(first_price) + np.cumsum(log_returns)
    before = np.concatenate([[np.log(first_price)], close[:-1]])
    opened = before + shapes.gap[rows] * width
    high = np.maximum(opened, close) + shapes.above[rows] * width
    low = np.minimum(opened, close) - shapes.below[rows] * width
    # Rounding keeps the order of numbers, so a candle that is right stays right.
    decimals = max(0, _DIGITS - 1 - int(np.floor(low.min() / np.log(10.0))))
    opened, high, low, close = (np.round(np.exp(part), decimals) for part in (opened, high, low, close))
    return Bars(
        opened[:, None], high[:, None], low[:, None], close[:, None], volume=shapes.volume[rows][:, None]
    )


def candles(symbol: str, interval: str, start: datetime, bars: Bars) -> pl.DataFrame:
    """`bars` [T, 1] from `start` on in the schema of candles."""
    opened, high, low, close = (part[:, 0] for part in bars[:4])
    assert bars.volume is not None
    volume = bars.volume[:, 0]
    first = round(start.timestamp() * 1000)
    times = first + interval_ms(interval) * np.arange(len(close))
    return conform(
        pl.DataFrame(
            {
                "symbol": [symbol] * len(close),
                "open_time": pl.Series(times).cast(pl.Datetime("ms", "UTC")),
                "open": opened,
                "high": high,
                "low": low,
                "close": close,
                "volume": volume,
                "turnover": volume * (opened + high + low + close) / 4,
            }
        )
    )
