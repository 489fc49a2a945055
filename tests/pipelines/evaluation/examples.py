"""Inputs that several tests share: reference series, result tables, files that may be absent."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

ROOT = Path(__file__).resolve().parents[3]


def shared_file(variable: str, folder: str, name: str) -> Path:
    path = Path(os.environ.get(variable, ROOT.parent / "shared" / folder)) / name
    if not path.exists():
        pytest.skip(f"{name} is not there (set {variable})")
    return path


def vector_returns() -> np.ndarray:
    """Seven columns of 500 returns; the first is the benchmark."""
    return pl.read_csv(shared_file("SHARED_VECTORS", "vectors", "returns_500x7.csv")).to_numpy()


def bitcoin_daily_returns() -> np.ndarray:
    """1568 daily returns of buy and hold, the last, partial day dropped."""
    hours = pl.read_csv(shared_file("SHARED_DATA", "data", "binance_usdm/BTCUSDT_1h.csv"))
    days = hours.group_by(pl.col("Date").str.slice(0, 10), maintain_order=True).agg(pl.col("Close").last())
    close = days["Close"].to_numpy()[:-1]
    return close[1:] / close[:-1] - 1.0


def waves() -> np.ndarray:
    """A series with known resampling laws; no random numbers in it."""
    t = np.arange(1, 501)
    return 0.01 * np.sin(1.7 * t) + 0.005 * np.cos(0.05 * t) + 0.0005


def result_frame(
    equity: np.ndarray,
    *,
    agent: str = "agent",
    fold: int = 0,
    seed: int = 0,
    first_bar: int = 0,
    exposure: float = 1.0,
    fees: float = 0.0,
    ruined: bool = False,
) -> pl.DataFrame:
    """A path of the result table: `equity` [T] from 1e6, all of its change by price and `fees` a bar."""
    levels = np.asarray(equity, dtype=np.float64)
    change = np.diff(levels, prepend=1e6)
    start = datetime(2024, 1, 1, tzinfo=UTC)
    size = len(levels)
    with np.errstate(invalid="ignore", divide="ignore"):
        steps = np.log(levels / np.concatenate([[1e6], levels[:-1]]))
    zero = np.zeros(size)
    return pl.DataFrame(
        {
            "agent": [agent] * size,
            "fold": pl.Series([fold] * size, dtype=pl.Int32),
            "seed": pl.Series([seed] * size, dtype=pl.Int32),
            "open_time": pl.Series(
                [start + timedelta(hours=first_bar + k) for k in range(size)], dtype=pl.Datetime("ms", "UTC")
            ),
            "equity": levels,
            "log_return": steps,
            "turnover": zero + 0.25,
            "price": change + fees,
            "fees": zero - fees,
            "spread": zero,
            "slippage": zero,
            "impact": zero,
            "funding": zero,
            "liquidation": zero,
            "gross_exposure": zero + abs(exposure),
            "exposure_BTCUSDT": zero + exposure,
            "ruined": [ruined] * size,
        }
    )
