"""Candles made for the tests: flawless, until a test breaks them."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipelines.candles import SCHEMA

ROOT = Path(__file__).resolve().parents[3]
START = datetime(2024, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
BARS = 240
END = START + BARS * HOUR
SYMBOLS = ("AAAUSDT", "BBBUSDT")


def clean(*, seed: int = 0, bars: int = BARS, symbols: tuple[str, ...] = SYMBOLS) -> pl.DataFrame:
    """Hourly random walks from `START` on."""
    rng = np.random.default_rng(seed)
    parts = []
    for symbol in symbols:
        close = 100 * np.exp(np.cumsum(rng.standard_normal(bars) * 0.003))
        opened = np.concatenate([[100.0], close[:-1]])
        volume = rng.lognormal(size=bars)
        parts.append(
            pl.DataFrame(
                {
                    "symbol": [symbol] * bars,
                    "open_time": [START + i * HOUR for i in range(bars)],
                    "open": opened,
                    "high": np.maximum(opened, close) * 1.0005,
                    "low": np.minimum(opened, close) * 0.9995,
                    "close": close,
                    "volume": volume,
                    "turnover": volume * close,
                },
                schema=SCHEMA,
            )
        )
    return pl.concat(parts)


def put(table: pl.DataFrame, row: int, **values: object) -> pl.DataFrame:
    """The table with some values of one row replaced."""
    here = pl.int_range(pl.len()) == row
    return table.with_columns(
        pl.when(here).then(pl.lit(value, SCHEMA[name])).otherwise(name).alias(name)
        for name, value in values.items()
    )


def drop(table: pl.DataFrame, *rows: int) -> pl.DataFrame:
    """The table without some rows."""
    return table.filter(~pl.int_range(pl.len()).is_in(rows))


def real(name: str, symbol: str) -> pl.DataFrame:
    """A file of real candles in our schema; skips the test where it is not at hand."""
    path = Path(os.environ.get("SHARED_DATA", ROOT.parent / "shared" / "data")) / name
    if not path.exists():
        pytest.skip(f"needs the shared data file {name}")
    time = pl.col("timestamp").str.to_datetime("%Y-%m-%d %H:%M:%S%z", time_unit="ms")
    prices = ("open", "high", "low", "close", "volume")
    return pl.read_csv(path).select(
        symbol=pl.lit(symbol),
        open_time=time,
        **{column: pl.col(column).cast(pl.Float64) for column in prices},
        turnover=pl.lit(None, pl.Float64),
    )
