"""From a source that answers in windows into the store: resumable, checked, flat in memory.

    requests = plan(store, ["BTCUSDT", "ETHUSDT"], "1m", start, end)      # what is missing, nothing more
    print(download(client, store, requests))

A source is anything with `iter_klines`, yielding windows in ascending time. Each window is checked as it
arrives and goes to disk whole; a few windows share one append, because rewriting a month costs the same for
one row as for fifty thousand. A kill loses at most the windows since the last append, and no stored bar is
ever asked for again.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple, Never, Protocol

import polars as pl
from tqdm import tqdm

from pipelines.candles import interval_ms
from pipelines.manifest import StoreError
from pipelines.store import Store, Time, to_ms
from pipelines.tables import check

FLUSH_ROWS = 50_000
FLUSH_SECONDS = 5.0


class Klines(Protocol):
    """One window: closed bars in ascending time, and the open times the exchange says it does not have.

    `covered`: the first and last open time the window speaks for (None: nothing there is closed yet). What
    it covers and neither has nor misses lies outside the life of the symbol; all three are final.
    """

    @property
    def frame(self) -> pl.DataFrame: ...
    @property
    def missing(self) -> Iterable[Time]: ...
    @property
    def covered(self) -> tuple[Time, Time] | None: ...


class Source(Protocol):
    """Yields the windows of a range (both ends inclusive, milliseconds) in ascending time."""

    def iter_klines(
        self, category: str, symbol: str, interval: str, start_ms: int, end_ms_inclusive: int, /
    ) -> Iterator[Klines]: ...


class SourceError(StoreError):
    """The source broke its own order; nothing of that window was stored."""


class Request(NamedTuple):
    """Bars with `start <= open_time < end` (milliseconds) that the store was never told about."""

    symbol: str
    interval: str
    start: int
    end: int

    @property
    def bars(self) -> int:
        return (self.end - self.start) // interval_ms(self.interval)

    def __str__(self) -> str:
        first, last = (datetime.fromtimestamp(stamp / 1000, UTC) for stamp in (self.start, self.end))
        return (
            f"{self.symbol} {self.interval} {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M}: {self.bars} bars"
        )


class Summary(NamedTuple):
    """What a download did. `absent` bars were asked for and are not there."""

    requests: int
    bars: int
    absent: int
    seconds: float

    def __str__(self) -> str:
        rate = self.bars / self.seconds if self.seconds > 0 else 0.0
        return (
            f"{self.bars} bars stored from {self.requests} requests in {self.seconds:.1f} s "
            f"({rate:.0f} bars/s), {self.absent} not on offer"
        )


def plan(store: Store, symbols: Sequence[str], interval: str, start: Time, end: Time) -> list[Request]:
    """What has to be asked for so that the store covers `[start, end)`; empty when it does."""
    return [
        Request(symbol, interval, *missing)
        for symbol in symbols
        for missing in store.missing_ranges(symbol, interval, start, end)
    ]


def download(
    source: Source,
    store: Store,
    requests: Sequence[Request],
    *,
    progress: bool | None = None,
    flush_rows: int = FLUSH_ROWS,
) -> Summary:
    """Fills the store with `requests` from `plan`; safe to kill at any moment and to call again.

    `progress` None shows a bar when standard error is a terminal. `flush_rows` bars share one append. An
    error of the source passes through after all that arrived before it has been stored.
    """
    shown = sys.stderr.isatty() if progress is None else progress
    started = time.monotonic()
    bars = absent = 0
    with tqdm(
        total=sum(request.bars for request in requests), unit="bar", unit_scale=True, disable=not shown
    ) as meter:
        for request in requests:
            meter.set_description(f"{request.symbol} {request.interval}")
            with store.writing(request.symbol, request.interval):
                batch = _Batch(store, request, meter, flush_rows)
                try:
                    for window in source.iter_klines(
                        store.category, request.symbol, request.interval, request.start, request.end - 1
                    ):
                        batch.add(window)
                finally:
                    # Also when the source fails or the user interrupts: what has arrived is good.
                    batch.flush()
            bars += batch.stored
            absent += batch.absent
    return Summary(len(requests), bars, absent, time.monotonic() - started)


class _Batch:
    """Windows of one request on their way to disk. `mark` is the time up to which everything has arrived."""

    def __init__(self, store: Store, request: Request, meter: tqdm[Never], flush_rows: int) -> None:
        self._store, self._request, self._meter = store, request, meter
        self._step = interval_ms(request.interval)
        self._flush_rows = flush_rows
        self._windows: list[pl.DataFrame] = []
        self._rows = 0
        self._flushed = time.monotonic()
        self._begin = request.start  # of what is waiting here
        self.mark = request.start
        self.stored = 0
        self.absent = 0

    def add(self, window: Klines) -> None:
        """Checks one window and keeps it; writes when enough is waiting."""
        request = self._request
        rows = check(window.frame, self._store.table, request.symbol, request.interval)
        seen = [*rows[self._store.table.time].to_physical().to_list(), *map(to_ms, window.missing)]
        if window.covered is None:
            if seen:
                raise SourceError(f"{request}: a window of {len(seen)} bars says that it covers nothing")
            return
        first, last = map(to_ms, window.covered)
        outside = (
            first != self.mark or last >= request.end or any(not first <= stamp <= last for stamp in seen)
        )
        if outside or len(set(seen)) < len(seen):
            raise SourceError(
                f"{request}: a window of {len(seen)} bars, {first} to {last}, does not follow {self.mark}"
            )
        self._windows.append(rows)
        self._rows += rows.height
        self._meter.update((last - first) // self._step + 1)
        self.mark = last + self._step
        if self._rows >= self._flush_rows or time.monotonic() - self._flushed >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Stores what waits, with the stretch it stands for, in one append."""
        if self.mark == self._begin:
            return
        begin, windows = self._begin, self._windows
        # Forgotten first: an append that is refused must not be tried again on the way out.
        self._begin, self._windows, self._rows = self.mark, [], 0
        schema = self._store.table.schema
        rows = pl.concat(windows) if windows else pl.DataFrame(schema=schema)
        done = self._store.append(
            self._request.symbol, self._request.interval, rows, fetched=(begin, self.mark)
        )
        self.stored += done.added
        self.absent += (self.mark - begin) // self._step - rows.height
        self._meter.set_postfix(rows=self.stored, refresh=False)
        self._flushed = time.monotonic()
