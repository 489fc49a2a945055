"""What a right client must return, worked out without a server, and a clock that needs no waiting."""

from __future__ import annotations

import math
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from pipelines.sources.bybit import BybitClient
from tests.fakes.exchange import INSTRUMENTS_LISTED, NOW, FakeExchange
from tests.fakes.prices import after, bars_of


class VirtualClock:
    """Time that passes only by sleeping; `waits` are the sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.waits: list[float] = []
        self._lock = threading.Lock()

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.waits.append(seconds)
            self.now += seconds


def at(milliseconds: int) -> datetime:
    """The moment so long after 1970."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)


def client_of(exchange: FakeExchange, **settings: Any) -> BybitClient:
    """A client of the fake exchange without a limit on its rate, its clock set like the exchange's."""
    usual = {"requests_per_second": math.inf, "workers": 2, "wall_clock": lambda: exchange.now / 1e3}
    return BybitClient(exchange.url, **{**usual, **settings})


def truth(
    category: str,
    symbol: str,
    interval: str,
    start: int,
    end: int,
    *,
    now: int = NOW,
    grace: int = 10_000,
    holes: tuple[tuple[int, int], ...] = (),
) -> pl.DataFrame:
    """The closed bars of the fake market with open times in `[start, end]`, as the client must give them."""
    instrument = next(one for one in INSTRUMENTS_LISTED if (one.category, one.symbol) == (category, symbol))
    table = bars_of(instrument, interval, start, after(end, interval), now, holes)
    inverse = category == "inverse"
    close = table.close / 10
    bars = pl.DataFrame(
        {
            "open_time": table.times,
            "open": table.open / 10,
            "high": table.high / 10,
            "low": table.low / 10,
            "close": close,
            "volume": table.volume.astype(float) if inverse else table.volume / 1e3,
            "turnover": (table.volume / close).round(8) if inverse else table.value / 1e4,
        }
    )
    closed = [after(at, interval) + grace <= now and start <= at <= end for at in table.times.tolist()]
    return bars.filter(closed).with_columns(pl.col("open_time").cast(pl.Datetime("ms", "UTC")))
