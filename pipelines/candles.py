"""Candles: the one table every stage agrees on, and how it lies on disk.

A candle of bar ``t`` covers ``[open_time_t, open_time_t + interval)`` and is known at its close.
Frames are long (one row a symbol and bar), sorted by symbol and time. On disk they are one Parquet
file a symbol and month, so that a moving window adds and removes few files.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl

_COLUMNS: dict[str, pl.DataType | type[pl.DataType]] = {
    "symbol": pl.String,
    "open_time": pl.Datetime("ms", "UTC"),
    "open": pl.Float64,
    "high": pl.Float64,
    "low": pl.Float64,
    "close": pl.Float64,
    "volume": pl.Float64,
    "turnover": pl.Float64,
}
SCHEMA = pl.Schema(_COLUMNS)

MINUTE_MS = 60_000
INTERVALS_MS: dict[str, int] = {
    "1m": MINUTE_MS,
    "3m": 3 * MINUTE_MS,
    "5m": 5 * MINUTE_MS,
    "15m": 15 * MINUTE_MS,
    "30m": 30 * MINUTE_MS,
    "1h": 60 * MINUTE_MS,
    "2h": 120 * MINUTE_MS,
    "4h": 240 * MINUTE_MS,
    "6h": 360 * MINUTE_MS,
    "12h": 720 * MINUTE_MS,
    "1d": 1440 * MINUTE_MS,
}
YEAR_MS = 365 * 24 * 60 * MINUTE_MS


def interval_ms(interval: str) -> int:
    """Length of a bar in milliseconds; the names are the keys of `INTERVALS_MS`."""
    if interval not in INTERVALS_MS:
        raise ValueError(f"interval {interval!r} is unknown; allowed: {', '.join(INTERVALS_MS)}")
    return INTERVALS_MS[interval]


def periods_per_year(interval: str) -> float:
    """Bars in a year of a market that never closes."""
    return YEAR_MS / interval_ms(interval)


def conform(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with exactly our columns, types and order; a missing column is an error."""
    missing = [name for name in SCHEMA if name not in frame.columns]
    if missing:
        raise ValueError(f"candles lack the columns {missing}")
    return frame.select(pl.col(name).cast(dtype) for name, dtype in SCHEMA.items()).sort(
        "symbol", "open_time"
    )


def write(frame: pl.DataFrame, directory: Path) -> None:
    """Writes `directory/<symbol>/<year>-<month>.parquet`; replaces the directory as a whole."""
    scratch = directory.with_name(directory.name + ".partial")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    months = conform(frame).with_columns(month=pl.col("open_time").dt.strftime("%Y-%m"))
    for (symbol, month), part in months.group_by("symbol", "month", maintain_order=True):
        target = scratch / str(symbol) / f"{month}.parquet"
        target.parent.mkdir(exist_ok=True)
        part.drop("month").write_parquet(target, compression="zstd", statistics=True)
    shutil.rmtree(directory, ignore_errors=True)
    scratch.rename(directory)


def scan(directory: Path) -> pl.LazyFrame:
    """All candles below `directory`, lazily, sorted by symbol and time."""
    files = sorted(directory.glob("*/*.parquet"))
    if not files:
        raise FileNotFoundError(f"no candles below {directory}")
    return pl.scan_parquet(files)
