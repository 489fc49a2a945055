"""From a source into the store: resumable, killed at random, told what is not there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from pipelines.sources.download import Request, SourceError, Summary, download, plan
from pipelines.store import CandleStore, StoreConflict
from pipelines.tables import BadRows
from tests.pipelines.bars import LENGTH, START, MemorySource, Window, make_bars, tree, with_holes
from tests.pipelines.children import kill_and_resume

MINUTE = 60_000
BARS = make_bars(LENGTH)  # a month of minutes over three calendar months
END = START + BARS.height * MINUTE
HOLES = with_holes(BARS)


@pytest.fixture
def store(tmp_path: Path) -> CandleStore:
    return CandleStore(tmp_path / "store")


def test_a_download_fills_the_store_and_the_next_plan_is_empty(store: CandleStore) -> None:
    source = MemorySource(HOLES, window=1000)
    requests = plan(store, ["BTCUSDT"], "1m", START, END)
    assert requests == [Request("BTCUSDT", "1m", START, END)]
    assert str(requests[0]) == "BTCUSDT 1m 2024-01-31 00:00 to 2024-03-02 06:00: 45000 bars"
    summary = download(source, store, requests)
    assert summary[:3] == (1, 44_996, 4)
    assert plan(store, ["BTCUSDT"], "1m", START, END) == []
    assert store.scan(["BTCUSDT"], "1m", START, END).drop("symbol").collect().equals(HOLES)
    assert source.asked[0] == (START, START + 1000 * MINUTE)


def test_the_summary_is_one_line() -> None:
    text = str(Summary(2, 1000, 3, 2.0))
    assert text == "1000 bars stored from 2 requests in 2.0 s (500 bars/s), 3 not on offer"


def test_only_what_is_missing_is_asked_for(store: CandleStore) -> None:
    store.append("BTCUSDT", "1m", BARS[1000:2000])
    requests = plan(store, ["BTCUSDT", "ETHUSDT"], "1m", START, START + 3000 * MINUTE)
    assert [(request.symbol, request.bars) for request in requests] == [
        ("BTCUSDT", 1000),
        ("BTCUSDT", 1000),
        ("ETHUSDT", 3000),
    ]
    source = MemorySource(BARS, window=300)
    download(source, store, requests)
    stored = (START + 1000 * MINUTE, START + 2000 * MINUTE)
    assert all(end <= stored[0] or begin >= stored[1] for begin, end in source.asked[:8])
    assert store.manifest("BTCUSDT", "1m").fetched == ((START, START + 3000 * MINUTE),)


def test_the_time_before_the_listing_is_not_asked_for_again(store: CandleStore) -> None:
    early = START - 5000 * MINUTE
    requests = plan(store, ["NEWUSDT"], "1m", early, START + 100 * MINUTE)
    assert download(MemorySource(BARS[:100]), store, requests)[1:3] == (100, 5000)
    assert plan(store, ["NEWUSDT"], "1m", early, START + 100 * MINUTE) == []


def test_what_is_not_closed_yet_stays_to_be_fetched(store: CandleStore) -> None:
    end = START + 3000 * MINUTE
    closed = START + 700 * MINUTE
    download(MemorySource(BARS, closed=closed), store, plan(store, ["BTCUSDT"], "1m", START, end))
    assert plan(store, ["BTCUSDT"], "1m", START, end) == [Request("BTCUSDT", "1m", closed, end)]
    download(MemorySource(BARS), store, plan(store, ["BTCUSDT"], "1m", START, end))
    assert plan(store, ["BTCUSDT"], "1m", START, end) == []
    assert store.scan(None, "1m", START, end).drop("symbol").collect().equals(BARS[:3000])


class Failing(MemorySource):
    """Delivers `good` windows, then whatever `last` does."""

    def __init__(self, good: int, last: Window | BaseException) -> None:
        super().__init__(BARS, window=200)
        self._good, self._last = good, last

    def iter_klines(
        self, category: str, symbol: str, interval: str, start_ms: int, end_ms_inclusive: int, /
    ) -> Iterator[Window]:
        windows = super().iter_klines(category, symbol, interval, start_ms, end_ms_inclusive)
        for _ in range(self._good):
            yield next(windows)
        if isinstance(self._last, BaseException):
            raise self._last
        yield self._last


NEXT = BARS[600:800]


def window(frame: pl.DataFrame, *missing: int, first: int = 600, last: int = 799) -> Window:
    return Window(frame, list(missing), (START + first * MINUTE, START + last * MINUTE))


FAULTS: dict[str, tuple[Window | BaseException, type[BaseException]]] = {
    "the line breaks": (ConnectionError("gone"), ConnectionError),
    "the user stops": (KeyboardInterrupt(), KeyboardInterrupt),
    "not a number": (window(NEXT.with_columns(close=pl.lit(float("nan")))), BadRows),
    "newest first": (window(NEXT.reverse()), BadRows),
    "the window before again": (window(BARS[400:600], first=400, last=599), SourceError),
    "a window left out": (window(BARS[800:1000], first=800, last=999), SourceError),
    "bars beyond what it covers": (window(NEXT, last=700), SourceError),
    "covers more than was asked": (window(NEXT, last=LENGTH), SourceError),
    "there and missing at once": (window(NEXT, START + 700 * MINUTE), SourceError),
    "bars that are not closed": (Window(NEXT, [], None), SourceError),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_came_before_a_fault_is_kept_and_nothing_after(store: CandleStore, fault: str) -> None:
    last, kind = FAULTS[fault]
    with pytest.raises(kind):
        download(Failing(3, last), store, plan(store, ["BTCUSDT"], "1m", START, END))
    assert store.scan(["BTCUSDT"], "1m", START, END).drop("symbol").collect().equals(BARS[:600])
    assert plan(store, ["BTCUSDT"], "1m", START, END) == [Request("BTCUSDT", "1m", START + 600 * MINUTE, END)]


def test_a_conflict_stops_the_download_and_is_not_written(store: CandleStore, tmp_path: Path) -> None:
    requests = plan(store, ["BTCUSDT"], "1m", START, START + 100 * MINUTE)
    store.append("BTCUSDT", "1m", BARS[50:60].with_columns(volume=pl.col("volume") + 1))
    before = tree(tmp_path)
    with pytest.raises(StoreConflict):
        download(MemorySource(BARS), store, requests)
    assert tree(tmp_path) == before


def test_the_number_of_windows_per_append_does_not_show(tmp_path: Path) -> None:
    for flush_rows in (1, 700, 10**9):
        store = CandleStore(tmp_path / str(flush_rows))
        requests = plan(store, ["BTCUSDT"], "1m", START, START + 5000 * MINUTE)
        download(MemorySource(HOLES), store, requests, flush_rows=flush_rows)
    assert tree(tmp_path / "1") == tree(tmp_path / "700") == tree(tmp_path / str(10**9))


def test_progress_is_shown_on_a_terminal_only(store: CandleStore, capsys: pytest.CaptureFixture[str]) -> None:
    download(MemorySource(BARS), store, plan(store, ["BTCUSDT"], "1m", START, START + 300 * MINUTE))
    assert capsys.readouterr() == ("", "")
    requests = plan(store, ["ETHUSDT"], "1m", START, START + 300 * MINUTE)
    download(MemorySource(BARS), store, requests, progress=True)
    error = capsys.readouterr().err
    assert "ETHUSDT 1m: 100%" in error
    assert "rows=300" in error


# -- killed at random moments ------------------------------------------------------------------------


@pytest.mark.serial
def test_twenty_kills_leave_the_unbroken_store(tmp_path: Path) -> None:
    outcome = kill_and_resume(tmp_path, kills=20, seed=5)
    assert outcome.kills == 20
    assert outcome.saved > 1000, "the kills must have fallen into the middle of the work"
