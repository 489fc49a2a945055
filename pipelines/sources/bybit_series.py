"""One series of candles: its windows, its holes, and the life of its symbol."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import numpy as np
import polars as pl

from pipelines.sources import bybit_rows as rows
from pipelines.sources.bybit_http import Transport
from pipelines.sources.bybit_rows import Bars, Interval, Times

PAGE_BARS = 1000  # the documented most
_EARLIEST_MS = 9999  # `start` without `end` gives the first bars from there on: with this, the first ever
_FUTURE_MS = 86_400_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Klines(NamedTuple):
    """Bars of one range. `frame`: `open_time` (UTC) and the columns, ascending, closed bars only.

    `missing`: open times of closed bars inside the life of the symbol that the exchange does not have.
    `covered`: first and last open time that this result speaks for; None if no bar of the range is
    closed yet. Every closed bar between the two is in `frame`, in `missing`, or outside that life.
    """

    frame: pl.DataFrame
    missing: list[datetime]
    covered: tuple[datetime, datetime] | None


class Series(NamedTuple):
    """What names a series of candles, and where and how it is read."""

    path: str
    category: str
    symbol: str
    grid: Interval
    columns: tuple[str, ...]


class Life(NamedTuple):
    """First and last open time that a series can have, and between which bars it was seen to have some.

    What lies outside the first pair is not called missing; what lies outside the second, which is the
    wider one wherever the exchange did not prove it, is not even asked for.
    """

    first: float
    last: float
    nothing_before: float
    nothing_after: float


class Listing(NamedTuple):
    """What the list of instruments says of a symbol; epoch ms."""

    status: str
    launch: int | None
    delivery: int | None


class SeriesReader:
    """Reads windows of series. `listing` looks a symbol up in the list of instruments."""

    def __init__(self, http: Transport, grace_ms: int, listing: Callable[[str, str], Listing | None]) -> None:
        self._http, self._grace_ms, self._listing = http, grace_ms, listing
        self._lock = threading.Lock()
        self._lives: dict[Series, Life] = {}
        self._life_locks: dict[Series, threading.Lock] = {}

    def window(self, series: Series, first: int, last: int) -> Klines:
        """The closed bars of one window, and those that should be there and are not."""
        life = self._lives.get(series)
        if life is not None and (last < life.nothing_before or first > life.nothing_after):
            bars, now = _no_bars(series), self._http.server_now()
        elif self._http.heard and first > self._http.server_now() + _FUTURE_MS:
            return joined(series, [])
        else:
            bars, now = self._page(series, first, last)
        opens = series.grid.opens(first, last)
        settled = opens[series.grid.closes(opens) + self._grace_ms <= now]
        absent = np.setdiff1d(settled, bars.times, assume_unique=True)
        if absent.size:
            life = self._life(series)
            absent = absent[(absent >= min([life.first, *bars.times[:1]])) & (absent <= life.last)]
        if absent.size:
            bars = self._asked_again(series, absent, bars, first, last)
            absent = np.setdiff1d(absent, bars.times, assume_unique=True)
        closed = np.isin(bars.times, settled, assume_unique=True)
        frame = rows.frame_of(Bars(bars.times[closed], bars.values[:, closed]), series.columns)
        covered = (_datetime(int(settled[0])), _datetime(int(settled[-1]))) if settled.size else None
        return Klines(frame, [_datetime(at) for at in absent.tolist()], covered)

    def _page(self, series: Series, first: int, last: int) -> tuple[Bars, int]:
        """The bars of one window as sent, and the exchange's time when it sent them."""
        answer = self._http.get(
            series.path,
            {
                "category": series.category,
                "symbol": series.symbol,
                "interval": series.grid.code,
                "start": first,
                "end": last,
                "limit": PAGE_BARS,
            },
        )
        bars = rows.read_bars(
            answer,
            category=series.category,
            symbol=series.symbol,
            grid=series.grid,
            first=first,
            last=last,
            columns=series.columns,
        )
        return bars, answer.time_ms

    def _asked_again(self, series: Series, absent: Times, bars: Bars, first: int, last: int) -> Bars:
        """The bars with what a second question about the absent ones brings.

        An exchange under load was seen to give empty lists without an error. The second question is
        about another window than the first wherever it can be, lest a cache gives the same answer.
        """
        low, high = int(absent[0]), int(absent[-1])
        windows = [(low, high)]
        if (low, high) == (first, last) and low < high:
            middle = series.grid.floor((low + high) // 2)
            windows = [(low, middle), (int(series.grid.closes(np.array([middle]))[0]), high)]
        for window in windows:
            page, _ = self._page(series, *window)
            bars = rows.merged(bars, page, self._http.address(series.path))
        return bars

    # The life of a series: what lies outside it is not missing.

    def _life(self, series: Series) -> Life:
        with self._lock:
            lock = self._life_locks.setdefault(series, threading.Lock())
        with lock:
            if series not in self._lives:
                listing = self._listing_once(series)
                first, proven_first = self._first_bar(series, listing)
                last, proven_last = self._last_bar(series, listing)
                self._lives[series] = Life(
                    first, last, first if proven_first else -math.inf, last if proven_last else math.inf
                )
            return self._lives[series]

    def _listing_once(self, series: Series) -> Callable[[], Listing | None]:
        """The listing, looked up when it is needed and then remembered."""
        found: list[Listing | None] = []

        def look_up() -> Listing | None:
            if not found:
                found.append(self._listing(series.category, series.symbol))
            return found[0]

        return look_up

    def _probe(self, series: Series, **window: int) -> int | None:
        """Open time of the one bar that the exchange gives for this end of history."""
        answer = self._http.get(
            series.path,
            {
                "category": series.category,
                "symbol": series.symbol,
                "interval": series.grid.code,
                **window,
                "limit": 1,
            },
        )
        bars = rows.read_bars(
            answer,
            category=series.category,
            symbol=series.symbol,
            grid=series.grid,
            first=0,
            last=answer.time_ms,
            columns=series.columns,
        )
        return int(bars.times[0]) if bars.times.size else None

    def _first_bar(self, series: Series, listing: Callable[[], Listing | None]) -> tuple[float, bool]:
        """Open time of the first bar ever (proven), else the launch time, else infinity.

        The launch time alone will not do: bars exist before it. And an answer to the probe counts only if
        there is nothing in the page before it, lest history be cut off.
        """
        first = self._probe(series, start=_EARLIEST_MS)
        if first is not None:
            index = int(series.grid.index(first))
            before = series.grid.open([max(index - PAGE_BARS, 0), index - 1])
            page, _ = self._page(series, int(before[0]), int(before[1]))
            if page.times.size == 0:
                return first, True
        listed = listing()
        if listed is None or listed.launch is None:
            return math.inf, False
        return series.grid.ceil(listed.launch), False

    def _last_bar(self, series: Series, listing: Callable[[], Listing | None]) -> tuple[float, bool]:
        """Infinity while the symbol trades, else the last bar before its delisting (proven if seen)."""
        newest = self._probe(series)
        now = self._http.server_now()
        grid = series.grid
        if newest is not None and grid.index(newest) >= grid.index(now - self._grace_ms) - 1:
            return math.inf, False
        listed = listing()
        if listed is not None:
            if listed.delivery is not None and listed.delivery <= now:
                last = grid.floor(listed.delivery - 1)
                return last, newest is not None and newest <= last
            if listed.status != "Closed":
                return math.inf, False
        return -math.inf if newest is None else newest, False


def _no_bars(series: Series) -> Bars:
    return Bars(np.empty(0, np.int64), np.empty((len(series.columns), 0)))


def joined(series: Series, parts: Sequence[Klines]) -> Klines:
    """The windows of one range, in order, as one result."""
    frames = [part.frame for part in parts] or [rows.frame_of(_no_bars(series), series.columns)]
    covered = [part.covered for part in parts if part.covered is not None]
    return Klines(
        pl.concat(frames),
        [at for part in parts for at in part.missing],
        (covered[0][0], covered[-1][1]) if covered else None,
    )


def epoch_ms(value: datetime) -> int:
    """Whole milliseconds since 1970, without a detour through floating point."""
    return (value - _EPOCH) // timedelta(milliseconds=1)


def _datetime(at: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=at)
