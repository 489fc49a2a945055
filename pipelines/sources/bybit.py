"""The public market data of the Bybit v5 API, complete or not at all.

    with BybitClient() as client:
        result = client.klines("linear", "BTCUSDT", "1h", start, end)
        result.frame      # closed bars only, ascending, every number checked
        result.missing    # open times that the exchange does not have

A range is cut into windows of at most one page, aligned to the bars, so that no answer can be cut short
by the exchange's rule of giving the newest rows of a window. A bar is closed when its end, plus a grace,
lies before the exchange's own clock. A bar that an answer lacks is asked for once more before it is
called missing, and only inside the life of the symbol: from its first bar ever to its delisting.
"""

from __future__ import annotations

import math
import operator
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import polars as pl

from pipelines.sources import bybit_rows as rows
from pipelines.sources.bybit_answers import BadRequest, BybitError
from pipelines.sources.bybit_http import TIME_PATH, Limits, Transport
from pipelines.sources.bybit_rows import Bars, Interval
from pipelines.sources.bybit_series import PAGE_BARS, Klines, Listing, Series, SeriesReader, epoch_ms, joined

__all__ = ["BadRequest", "BybitClient", "BybitError", "Klines", "Limits", "Progress", "Query"]

_K = TypeVar("_K")
_T = TypeVar("_T")

KLINE_PATH = "/v5/market/kline"
MARK_PATH = "/v5/market/mark-price-kline"
FUNDING_PATH = "/v5/market/funding/history"
INSTRUMENTS_PATH = "/v5/market/instruments-info"
_PAGE_FUNDING = 200
_PAGE_INSTRUMENTS = 1000
_SYMBOL = re.compile(r"[A-Z0-9][A-Z0-9-]{1,39}")


class Query(NamedTuple):
    """One range of one symbol for `klines_many`; the times as in `BybitClient.klines`."""

    category: str
    symbol: str
    interval: str
    start: int | datetime
    end: int | datetime


class Progress(NamedTuple):
    """Where a fetch stands, after each window."""

    windows_done: int
    windows: int
    bars: int
    requests: int


class BybitClient:
    """Reads candles, funding and instruments. One client may serve several threads.

    `requests_per_second` is half of the documented limit by default; `grace` is how many seconds after
    its end a bar counts as closed; `workers` windows are fetched at once. `timeout` bounds one request,
    `max_total_wait` one question with all its retries. `clock`, `wall_clock` and `sleep` exist for tests.
    `progress` is called after each window, in the caller's thread. A keyboard interrupt closes the client.
    """

    def __init__(
        self,
        base_url: str = "https://api.bybit.com",
        *,
        requests_per_second: float = Limits.requests_per_second,
        timeout: float = Limits.timeout,
        max_retries: int = Limits.max_retries,
        backoff: float = Limits.backoff,
        max_wait: float = Limits.max_wait,
        max_total_wait: float = Limits.max_total_wait,
        max_body_bytes: int = Limits.max_body_bytes,
        ban_seconds: float = Limits.ban_seconds,
        grace: float = 10.0,
        workers: int = 4,
        seed: int = 0,
        progress: Callable[[Progress], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        if not (0 <= grace < math.inf) or workers < 1:
            raise BadRequest("grace must not be negative and workers must be at least 1")
        limits = Limits(
            requests_per_second=requests_per_second,
            timeout=timeout,
            max_retries=max_retries,
            backoff=backoff,
            max_wait=max_wait,
            max_total_wait=max_total_wait,
            max_body_bytes=max_body_bytes,
            ban_seconds=ban_seconds,
        )
        self._http = Transport(base_url, limits, seed=seed, clock=clock, wall_clock=wall_clock, sleep=sleep)
        self._workers = workers
        self._progress = progress
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="bybit")
        self._reader = SeriesReader(self._http, int(grace * 1e3), self._listing)

    def __enter__(self) -> BybitClient:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends everything under way; no thread and no connection is left."""
        self._http.close()
        self._pool.shutdown(wait=True, cancel_futures=True)

    @property
    def requests_sent(self) -> int:
        """Requests so far, retries and redirects included."""
        return self._http.requests_sent

    def server_time(self) -> int:
        """The exchange's clock, epoch ms."""
        return self._http.get(TIME_PATH, {}).time_ms

    def klines(
        self, category: str, symbol: str, interval: str, start: int | datetime, end: int | datetime
    ) -> Klines:
        """Last-price candles with open times in `[start, end]` (epoch ms, or datetimes with a zone).

        `interval` is one of the exchange's codes ("1", "60", "D") or of our names ("1m", "1h", "1d").
        Volume is in base and turnover in quote units, except for `inverse`, where volume is in USD and
        turnover in base units.
        """
        return self.klines_many([Query(category, symbol, interval, start, end)])[0]

    def mark_klines(
        self, category: str, symbol: str, interval: str, start: int | datetime, end: int | datetime
    ) -> Klines:
        """Mark-price candles; as `klines`, without volume and turnover."""
        series = _series(MARK_PATH, category, symbol, interval)
        return next(self._fetch([(series, *_span(start, end))]))

    def klines_many(self, queries: Iterable[Query]) -> list[Klines]:
        """Several symbols and ranges at once, in the order of the queries."""
        return list(self._fetch(_plan(queries)))

    def iter_klines(
        self, category: str, symbol: str, interval: str, start: int | datetime, end: int | datetime
    ) -> Iterator[Klines]:
        """As `klines`, window by window in ascending order: memory stays flat in the length of history."""
        plan = _plan([Query(category, symbol, interval, start, end)])
        return (piece for _, piece in self._windows(plan))

    def iter_klines_many(self, queries: Iterable[Query]) -> Iterator[tuple[int, Klines]]:
        """Several symbols and ranges at once, window by window: (number of the query, its next window).

        The queries come one after the other, each in ascending order, while up to two windows a worker
        are already on their way.
        """
        return self._windows(_plan(queries))

    def funding_history(
        self, category: str, symbol: str, start: int | datetime, end: int | datetime
    ) -> pl.DataFrame:
        """Funding exchanged in `[start, end]`: `symbol`, `funding_time` (UTC), `rate`, ascending.

        Pages run backward from the oldest record seen, because the interval between records has changed
        over the life of many symbols.
        """
        _check_names(category, symbol, ("linear", "inverse"))
        first, last = _span(start, end)
        found = Bars(np.empty(0, np.int64), np.empty((1, 0)))
        while last >= first:
            page = self._funding_page(category, symbol, first, last)
            if page.times.size == 0:
                break
            found = Bars(
                np.concatenate([page.times, found.times]), np.concatenate([page.values, found.values], axis=1)
            )
            last = int(page.times[0]) - 1
        times = pl.Series(found.times).cast(pl.Datetime("ms", "UTC"))
        return pl.DataFrame({"funding_time": times, "rate": found.values[0]}).select(
            pl.lit(symbol).alias("symbol"), "funding_time", "rate"
        )

    def _funding_page(self, category: str, symbol: str, first: int, last: int) -> Bars:
        """The newest records in `[first, last]`; empty only if the exchange says so in two ways."""
        asked: dict[str, str | int] = {"category": category, "symbol": symbol}
        window = {"startTime": first, "endTime": last, "limit": _PAGE_FUNDING}
        answer = self._http.get(FUNDING_PATH, {**asked, **window})
        page = rows.read_funding(answer, category=category, symbol=symbol, first=first, last=last)
        if page.times.size:
            return page
        answer = self._http.get(FUNDING_PATH, {**asked, "endTime": last, "limit": _PAGE_FUNDING})
        page = rows.read_funding(answer, category=category, symbol=symbol, first=0, last=last)
        inside = page.times >= first
        return Bars(page.times[inside], page.values[:, inside])

    def instruments(
        self, category: str, *, symbol: str | None = None, status: str | None = None
    ) -> pl.DataFrame:
        """What is listed (columns: `bybit_rows.INSTRUMENT_SCHEMA`), sorted by symbol.

        Without a `status` the exchange names only what trades now; `PreLaunch`, `Delivering` and `Closed`
        must be asked for.
        """
        _check_names(category, symbol, ("spot", "linear", "inverse"))
        asked: dict[str, str | int] = {"category": category}
        if symbol is not None:
            asked["symbol"] = symbol
        if status is not None:
            asked["status"] = status
        if category != "spot":  # spot has no pages
            asked["limit"] = _PAGE_INSTRUMENTS
        records: dict[str, dict[str, Any]] = {}
        cursors: set[str] = set()
        while True:
            answer = self._http.get(INSTRUMENTS_PATH, asked)
            for record in rows.read_instruments(answer, category=category):
                name = record["symbol"]
                if records.setdefault(name, record) != record:
                    raise BybitError("bad_data", f"two different instruments {name}", url=answer.url)
                if symbol not in (None, name):
                    raise BybitError("bad_data", f"asked for {symbol}, got {name}", url=answer.url)
            cursor = answer.result.get("nextPageCursor") or ""
            if not cursor:
                break
            if not isinstance(cursor, str) or cursor in cursors:
                raise BybitError("bad_answer", "the pages of instruments go in circles", url=answer.url)
            cursors.add(cursor)
            asked["cursor"] = cursor
        ordered = [records[name] for name in sorted(records)]
        return pl.DataFrame(ordered, schema=rows.INSTRUMENT_SCHEMA)

    def _listing(self, category: str, symbol: str) -> Listing | None:
        for status in (None, "Closed", "Delivering", "PreLaunch"):
            try:
                found = self.instruments(category, symbol=symbol, status=status)
            except BybitError as error:
                if error.code != 10001:  # one of the two ways in which the exchange says "no such symbol"
                    raise
                continue
            if found.height:
                launch, delivery = found["launch_time"][0], found["delivery_time"][0]
                return Listing(
                    found["status"][0],
                    None if launch is None else epoch_ms(launch),
                    None if delivery is None else epoch_ms(delivery),
                )
        return None

    # Windows: planned in order, fetched side by side, handed out in order.

    def _fetch(self, plan: Sequence[tuple[Series, int, int]]) -> Iterator[Klines]:
        """One joined result an entry of the plan, in order."""
        pieces: list[list[Klines]] = [[] for _ in plan]
        for entry, piece in self._windows(plan):
            pieces[entry].append(piece)
        for (series, _, _), parts in zip(plan, pieces, strict=True):
            yield joined(series, parts)

    def _windows(self, plan: Sequence[tuple[Series, int, int]]) -> Iterator[tuple[int, Klines]]:
        """(entry of the plan, its next window), in order, with at most two windows a worker ahead.

        What an entry covers has no gap: after a window that holds an open bar come none, although a later
        one may have been answered later, when its first bar was closed.
        """
        total = sum(_page_count(*entry) for entry in plan)
        jobs = (
            ((entry, page_last), partial(self._reader.window, series, page_first, page_last))
            for entry, (series, first, last) in enumerate(plan)
            for page_first, page_last in _pages(series.grid, first, last)
        )
        done = bars = 0
        ended: set[int] = set()
        try:
            for (entry, page_last), piece in self._ordered(jobs):
                done, bars = done + 1, bars + (0 if entry in ended else piece.frame.height)
                if self._progress is not None:
                    self._progress(Progress(done, total, bars, self._http.requests_sent))
                if entry in ended:
                    continue
                if piece.covered is None or epoch_ms(piece.covered[1]) < page_last:
                    ended.add(entry)
                yield entry, piece
        except KeyboardInterrupt:
            self.close()
            raise

    def _ordered(self, jobs: Iterable[tuple[_K, Callable[[], _T]]]) -> Iterator[tuple[_K, _T]]:
        """The results of the jobs, each with its key, in the order of the jobs."""
        pending: deque[tuple[_K, Future[_T]]] = deque()
        try:
            for key, job in jobs:
                pending.append((key, self._submit(job)))
                if len(pending) >= 2 * self._workers:
                    ready, future = pending.popleft()
                    yield ready, future.result()
            while pending:
                ready, future = pending.popleft()
                yield ready, future.result()
        finally:
            for _, future in pending:
                future.cancel()

    def _submit(self, job: Callable[[], _T]) -> Future[_T]:
        try:
            return self._pool.submit(job)
        except RuntimeError as error:
            raise BybitError("unavailable", "the client was closed") from error


def _plan(queries: Iterable[Query]) -> list[tuple[Series, int, int]]:
    return [(_series(KLINE_PATH, *query[:3]), *_span(query.start, query.end)) for query in queries]


def _series(path: str, category: str, symbol: str, interval: str) -> Series:
    mark = path == MARK_PATH
    _check_names(category, symbol, ("linear", "inverse") if mark else ("spot", "linear", "inverse"))
    columns = rows.MARK_COLUMNS if mark else rows.KLINE_COLUMNS
    return Series(path, category, symbol, rows.interval(interval), columns)


def _check_names(category: str, symbol: str | None, categories: tuple[str, ...]) -> None:
    if category not in categories:
        raise BadRequest(f"category {category!r} is not one of {', '.join(categories)}")
    if symbol is None:
        return
    if not isinstance(symbol, str) or not _SYMBOL.fullmatch(symbol):
        raise BadRequest(f"symbol {symbol!r} is not a name in upper case")
    if category == "inverse" and symbol.endswith(("USDT", "USDC", "PERP")):
        # The exchange was seen to answer with linear data labelled inverse.
        raise BadRequest(f"{symbol} is not an inverse contract")


def _span(start: int | datetime, end: int | datetime) -> tuple[int, int]:
    first, last = _milliseconds(start, "start"), _milliseconds(end, "end")
    if first > last:
        raise BadRequest(f"start {first} lies after end {last}")
    return first, last


def _milliseconds(value: int | datetime, name: str) -> int:
    refused = f"{name} must be epoch milliseconds or a datetime with a zone"
    if isinstance(value, datetime):
        if value.tzinfo is None or value.utcoffset() is None:
            raise BadRequest(f"{name} is a datetime without a zone")
        at = epoch_ms(value)
    elif isinstance(value, bool):
        raise BadRequest(refused)
    else:
        try:
            at = operator.index(value)
        except TypeError as error:
            raise BadRequest(refused) from error
    if not 10**11 <= at < 10**14:
        # The exchange answers seconds with an empty list and no error; as milliseconds they lie before 1973.
        raise BadRequest(f"{name} {at} is not a time in milliseconds after 1973 (is it in seconds?)")
    return at


def _pages(grid: Interval, start: int, end: int) -> Iterator[tuple[int, int]]:
    first, last = grid.ceil(start), grid.floor(end)
    return grid.pages(first, last, PAGE_BARS) if first <= last else iter(())


def _page_count(series: Series, start: int, end: int) -> int:
    bars = int(series.grid.index(end)) - int(series.grid.index(start - 1))
    return -(-bars // PAGE_BARS)
