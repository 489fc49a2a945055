"""Small markets for the tests of features, splits and leaks."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import polars as pl

from pipelines.candles import interval_ms

START = datetime(2024, 1, 1, tzinfo=UTC)


def walk(bars: int, *, symbol: str = "AAA", seed: int = 0, interval: str = "1h") -> pl.DataFrame:
    """A random walk in the candle schema, without holes."""
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(rng.normal(0.0, 0.01, bars)))
    opened = np.concatenate(([100.0], close[:-1]))
    return from_prices(
        opened, close, rng.uniform(0, 0.003, bars), rng.exponential(10.0, bars), symbol, interval
    )


def from_closes(
    closes: list[float], *, volume: list[float] | None = None, symbol: str = "AAA", interval: str = "1h"
) -> pl.DataFrame:
    """Candles that open at the close before and have no wicks."""
    close = np.asarray(closes, dtype=np.float64)
    opened = np.concatenate((close[:1], close[:-1]))
    traded = np.ones(len(close)) if volume is None else np.asarray(volume, dtype=np.float64)
    return from_prices(opened, close, np.zeros(len(close)), traded, symbol, interval)


def from_prices(
    opened: np.ndarray, close: np.ndarray, wick: np.ndarray, volume: np.ndarray, symbol: str, interval: str
) -> pl.DataFrame:
    """Candles from their opens, closes, relative wicks and volumes."""
    first = int(START.timestamp() * 1000)
    times = pl.Series(first + np.arange(len(close)) * interval_ms(interval)).cast(pl.Datetime("ms", "UTC"))
    return pl.DataFrame(
        {
            "symbol": [symbol] * len(close),
            "open_time": times,
            "open": opened,
            "high": np.maximum(opened, close) * (1 + wick),
            "low": np.minimum(opened, close) * (1 - wick),
            "close": close,
            "volume": volume,
            "turnover": volume * close,
        }
    )
