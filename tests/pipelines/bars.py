"""Small made-up bars, a source that has them in memory, and a way to look at a folder's bytes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from pipelines.candles import interval_ms

START = 1_706_659_200_000  # 2024-01-31 00:00 UTC: a day before the end of a month
LENGTH = 45_000  # a month of minutes, in three calendar months


def make_bars(count: int, *, start: int = START, interval: str = "1m", seed: int = 0) -> pl.DataFrame:
    """`count` consistent bars from `start` on, without a symbol column."""
    random = np.random.default_rng(seed)
    close = np.round(100 * np.exp(np.cumsum(random.normal(0, 1e-3, count))), 2)
    open_ = np.concatenate([close[:1], close[:-1]])
    volume = np.round(random.exponential(10, count), 3)
    return pl.DataFrame(
        {
            "open_time": start + interval_ms(interval) * np.arange(count),
            "open": open_,
            "high": np.maximum(open_, close) + 0.01,
            "low": np.minimum(open_, close) - 0.01,
            "close": close,
            "volume": volume,
            "turnover": volume * close,
        }
    ).with_columns(pl.col("open_time").cast(pl.Datetime("ms", "UTC")))


def with_holes(bars: pl.DataFrame) -> pl.DataFrame:
    """The bars without four of them, as an exchange that was down would have it."""
    return bars.filter(~pl.int_range(pl.len()).is_in([7, 8, 450, 30_000]))


def tree(root: Path) -> dict[str, bytes]:
    """Every file of a store but its locks, by path."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


class Window(NamedTuple):
    frame: pl.DataFrame
    missing: list[int]
    covered: tuple[int, int] | None


class MemorySource:
    """Answers from a frame, `window` bars at a time; holes inside the listed life are reported missing."""

    def __init__(self, bars: pl.DataFrame, *, window: int = 200, pause: float = 0.0, log: Path | None = None,
                 closed: int | None = None) -> None:  # fmt: skip
        self._bars, self._window, self._pause, self._log = bars, window, pause, log
        self._closed = closed
        self.asked: list[tuple[int, int]] = []

    def iter_klines(
        self, category: str, symbol: str, interval: str, start_ms: int, end_ms_inclusive: int, /
    ) -> Iterator[Window]:
        assert category == "linear"
        step = interval_ms(interval)
        stamps = self._bars["open_time"].to_physical()
        for begin in range(start_ms, end_ms_inclusive + 1, self._window * step):
            end = min(begin + self._window * step, end_ms_inclusive + 1)
            self.asked.append((begin, end))
            if self._log is not None:
                with self._log.open("a") as log:
                    log.write(f"{begin} {end}\n")
            time.sleep(self._pause)
            if self._closed is not None:
                end = min(end, self._closed)
            if begin >= end:
                yield Window(self._bars.clear(), [], None)
                continue
            frame = self._bars.filter((stamps >= begin) & (stamps < end))
            have = set(frame["open_time"].to_physical().to_list())
            listed = range(max(begin, int(stamps[0])), min(end, int(stamps[-1]) + 1), step)
            missing = [stamp for stamp in listed if stamp not in have]
            yield Window(frame, missing, (begin, end - step))
