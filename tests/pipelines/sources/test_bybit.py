"""Candles from the fake exchange: complete windows, honest holes, no unfinished bar.

Bugs that other clients had, and where they are tested:
open candle taken for a closed one (pybit 175): here, "The open bar", and test_bybit_peers;
seconds for milliseconds give an empty list (pybit 247): test_bybit_requests, bad questions;
no reset header on a limit (pybit 317, 340): test_bybit_faults, "10006 twice, no header";
`since` ignored (ccxt 16551): test_bybit_faults, "the page after the one asked for";
a row before the start (ccxt 20646, 26736): here, "both ends"; the floored start: test_fake_exchange;
funding lost where its interval changed (ccxt 15990, 27745): test_bybit_listings;
old ranges come back empty (ccxt 26252), no way to the first bar (pybit 186): here, "Holes and lives";
a wide window keeps its newest thousand (ccxt's paginate): here, "Windows";
403 for the country taken for a ban (bybit-api 268, 380): test_bybit_faults, "403".
"""

from __future__ import annotations

from datetime import timedelta, timezone
from itertools import pairwise

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.sources.bybit import BybitError
from pipelines.sources.bybit_rows import INTERVALS
from tests.fakes.exchange import (
    INSTRUMENTS_LISTED,
    MARCH_2020,
    NOW,
    FakeExchange,
    Fault,
)
from tests.fakes.faults import field, later, rows
from tests.fakes.prices import after, bucket
from tests.fakes.truth import at, client_of, truth

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
LAST_CLOSED = NOW - NOW % MINUTE - MINUTE  # the minute that ended 20 s ago


# Windows


@pytest.mark.parametrize("code", list(INTERVALS))
def test_every_interval_is_complete(exchange: FakeExchange, code: str) -> None:
    step = INTERVALS[code].step or 31 * DAY
    bars = 1300 if step <= 4 * HOUR else 30  # the fake exchange adds long bars up from minutes
    start = NOW - bars * step
    with client_of(exchange) as client:
        found = client.klines("linear", "BTCUSDT", code, start, NOW)
    assert found.missing == []
    assert found.frame.equals(truth("linear", "BTCUSDT", code, start, NOW))
    assert found.frame.schema["open_time"] == pl.Datetime("ms", "UTC")
    assert found.frame.columns == ["open_time", "open", "high", "low", "close", "volume", "turnover"]


def test_windows_hold_at_most_a_page_and_none_is_asked_for_twice(exchange: FakeExchange) -> None:
    start = LAST_CLOSED - 4321 * MINUTE
    with client_of(exchange) as client:
        found = client.klines("linear", "BTCUSDT", "1m", start, LAST_CLOSED)
    assert found.frame.height == 4322
    windows = sorted((int(asked["start"]), int(asked["end"])) for asked in exchange.asked())
    assert len(windows) == 5
    assert all(end - begin < 1000 * MINUTE and begin % MINUTE == end % MINUTE == 0 for begin, end in windows)
    assert all(begin == end + MINUTE for (_, end), (begin, _) in pairwise(windows))
    assert (windows[0][0], windows[-1][1]) == (start, LAST_CLOSED)
    assert all(asked["category"] == "linear" and asked["limit"] == "1000" for asked in exchange.asked())


@pytest.mark.parametrize(
    ("begin", "end", "bars"),
    [(0, 0, 1), (0, 10 * MINUTE, 11), (1, 10 * MINUTE, 10), (0, 10 * MINUTE - 1, 10), (1, MINUTE - 1, 0)],
)
def test_both_ends_are_included_and_nothing_before_the_start(
    exchange: FakeExchange, begin: int, end: int, bars: int
) -> None:
    base = LAST_CLOSED - 100 * MINUTE
    with client_of(exchange) as client:
        found = client.klines("linear", "BTCUSDT", "1m", base + begin, base + end)
    assert found.frame.height == bars
    assert found.frame.equals(truth("linear", "BTCUSDT", "1", base + begin, base + end))
    assert len(exchange.asked()) == (1 if bars else 0)


def test_datetimes_in_any_zone_mean_the_same(exchange: FakeExchange) -> None:
    start, end = at(LAST_CLOSED - 90 * MINUTE), at(LAST_CLOSED)
    india = timezone(timedelta(hours=5, minutes=30))
    with client_of(exchange) as client:
        found = client.klines("linear", "BTCUSDT", "1m", start.astimezone(india), end.astimezone(india))
        assert found.covered == (start, end)
        assert found.frame.height == 91
        assert found.frame.equals(client.klines("linear", "BTCUSDT", "1", start, end).frame)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    code=st.sampled_from(["1", "5", "60", "240"]),
    back=st.integers(0, 40),
    length=st.integers(0, 2500),
    jitter=st.integers(0, 59_999),
    hole=st.none() | st.tuples(st.integers(0, 3000), st.integers(1, 2000)),
)
def test_any_window_and_any_outage(
    exchange: FakeExchange, code: str, back: int, length: int, jitter: int, hole: tuple[int, int] | None
) -> None:
    step = INTERVALS[code].step
    end = NOW - back * step + jitter
    start = end - length * step - jitter
    begin = NOW - 3000 * MINUTE
    exchange.holes = () if hole is None else ((begin + hole[0] * MINUTE, begin + sum(hole) * MINUTE),)
    with client_of(exchange) as client:
        found = client.klines("linear", "BTCUSDT", code, start, end)
    assert found.frame.equals(truth("linear", "BTCUSDT", code, start, end, holes=exchange.holes))
    whole = truth("linear", "BTCUSDT", code, start, end)["open_time"]
    assert found.missing == whole.filter(~whole.is_in(found.frame["open_time"].implode())).to_list()


# The open bar


@pytest.mark.parametrize(("seconds", "last_is_closed"), [(0, False), (9.999, False), (10, True), (59, True)])
def test_the_open_bar_is_dropped_by_the_exchanges_clock(
    exchange: FakeExchange, seconds: float, last_is_closed: bool
) -> None:
    minute = NOW - NOW % MINUTE
    exchange.now = minute + int(seconds * 1000)
    for wrong_by in (-DAY, 0, DAY):  # our own clock does not matter
        with client_of(exchange, wall_clock=lambda off=wrong_by: (exchange.now + off) / 1e3) as client:
            found = client.klines("linear", "BTCUSDT", "1m", minute - 5 * MINUTE, minute + 5 * MINUTE)
        newest = minute - MINUTE if last_is_closed else minute - 2 * MINUTE
        assert found.frame["open_time"][-1] == at(newest)
        assert found.covered == (at(minute - 5 * MINUTE), at(newest))
        assert found.missing == []
        assert found.frame.equals(
            truth("linear", "BTCUSDT", "1", minute - 5 * MINUTE, newest, now=exchange.now)
        )


def test_the_open_bar_of_long_intervals_is_dropped(exchange: FakeExchange) -> None:
    with client_of(exchange) as client:
        for code, name in (("60", "1h"), ("D", "1d"), ("W", "W"), ("M", "M")):
            found = client.klines("linear", "BTCUSDT", name, NOW - 100 * DAY, NOW + 400 * DAY)
            assert found.frame["open_time"][-1] < at(int(bucket(NOW, code)))
            assert after(int(found.frame["open_time"][-1].timestamp() * 1000), code) <= NOW


def test_a_bar_of_the_future_is_refused(exchange: FakeExchange) -> None:
    exchange.fail(Fault(edit=rows(lambda r: [[str(NOW + 40_000), *r[0][1:]], *r])))
    with (
        client_of(exchange) as client,
        pytest.raises(BybitError, match="after the exchange's own time") as caught,
    ):
        client.klines("linear", "BTCUSDT", "1m", LAST_CLOSED, NOW + HOUR)
    assert caught.value.kind == "bad_data"


def test_what_is_covered_has_no_gap_when_time_goes_on_between_two_windows(exchange: FakeExchange) -> None:
    exchange.fail(Fault(edit=later(3 * MINUTE)), skip=1)  # the second answer comes three minutes later
    start = LAST_CLOSED - 998 * MINUTE  # the first window ends with the open bar
    with client_of(exchange, workers=1) as client:
        pieces = list(client.iter_klines("linear", "BTCUSDT", "1m", start, NOW + HOUR))
    assert [piece.covered for piece in pieces] == [(at(start), at(LAST_CLOSED))]
    assert pieces[0].missing == []


def test_the_future_is_not_asked_for_page_by_page(exchange: FakeExchange) -> None:
    with client_of(exchange) as client:
        found = client.klines("linear", "BTCUSDT", "1m", LAST_CLOSED, NOW + 3000 * DAY)
    assert found.frame.height == 1
    assert len(exchange.requests) <= 8


# Holes and lives


def test_an_outage_is_reported_bar_by_bar_after_a_second_question(exchange: FakeExchange) -> None:
    start = LAST_CLOSED - 5999 * MINUTE
    exchange.holes = (
        (start + 300 * MINUTE, start + 303 * MINUTE),
        (start + 1500 * MINUTE, start + 4200 * MINUTE),  # two whole pages and two parts
    )
    with client_of(exchange) as client:
        found = client.klines("linear", "BTCUSDT", "1m", start, LAST_CLOSED)
    lost = [start + n * MINUTE for n in [*range(300, 303), *range(1500, 4200)]]
    assert found.missing == [at(time) for time in lost]
    assert found.frame.height == 6000 - len(lost)
    asked = [tuple(sorted(params.items())) for params in exchange.asked()]
    assert len(set(asked)) == len(asked)


def test_a_second_question_that_contradicts_the_first_is_an_error(exchange: FakeExchange) -> None:
    exchange.fail(Fault(edit=rows(lambda r: [*r[:10], *r[13:50], *r[60:]])))
    exchange.fail(
        Fault(edit=field(20, 5, "0.001")), skip=3
    )  # after the questions about the first and last bar
    with client_of(exchange) as client, pytest.raises(BybitError, match="two different bars") as caught:
        client.klines("linear", "BTCUSDT", "1m", LAST_CLOSED - 99 * MINUTE, LAST_CLOSED)
    assert caught.value.kind == "bad_data"


def test_nothing_is_missing_before_the_first_bar_and_those_pages_are_skipped(exchange: FakeExchange) -> None:
    with client_of(exchange) as client:
        found = client.klines("linear", "BTCUSDT", "1h", MARCH_2020 - 3000 * DAY, MARCH_2020 + 100 * HOUR)
        assert found.missing == []
        assert found.frame["open_time"][0] == at(MARCH_2020 // HOUR * HOUR)  # before the launch time
        assert found.frame.height == 101
        assert len(exchange.requests) < 15  # of 73 pages
        minutes = client.klines("linear", "BTCUSDT", "1m", MARCH_2020 - HOUR, MARCH_2020 + HOUR)
        assert (minutes.frame["open_time"][0], minutes.missing) == (at(MARCH_2020), [])


@pytest.mark.parametrize("clamps", [True, False])
def test_a_hole_after_the_launch_is_missing(exchange: FakeExchange, clamps: bool) -> None:
    exchange.clamps_start = clamps  # without: `start` before the first bar gives an empty list
    launch = next(one for one in INSTRUMENTS_LISTED if one.symbol == "ETHUSDT").launch
    exchange.holes = ((launch + HOUR, launch + 2 * HOUR),)
    with client_of(exchange) as client:
        found = client.klines("linear", "ETHUSDT", "5m", launch - DAY, launch + DAY)
        assert found.missing == [at(launch + HOUR + n * 5 * MINUTE) for n in range(12)]
        assert found.frame["open_time"][0] == at(launch)


def test_a_first_bar_that_is_not_the_first_does_not_cut_history_off(exchange: FakeExchange) -> None:
    probe = rows(lambda r: [[str(NOW - NOW % HOUR - 100 * HOUR), *r[0][1:]]])
    start = NOW - NOW % HOUR - 2500 * HOUR
    exchange.holes = ((start, start + 2 * HOUR),)
    exchange.fail(Fault(edit=probe), times=1, skip=1)
    with client_of(exchange, workers=1) as client:
        found = client.klines("linear", "BTCUSDT", "1h", start, NOW)
    assert exchange.asked()[1]["limit"] == "1"
    assert found.frame.height == 2500 - 2
    assert found.missing == [at(start), at(start + HOUR)]


def test_nothing_is_missing_after_a_delisting(exchange: FakeExchange) -> None:
    delisted = 1_672_531_200_000
    exchange.holes = ((delisted - 5 * HOUR, delisted - 4 * HOUR),)
    with client_of(exchange) as client:
        found = client.klines("linear", "OLDUSDT", "1h", delisted - 10 * HOUR, delisted + 9000 * HOUR)
        assert found.missing == [at(delisted - 5 * HOUR)]
        assert found.frame["open_time"][-1] == at(delisted - HOUR)
        assert found.frame.height == 9


def test_an_outage_that_lasts_until_now_is_missing(exchange: FakeExchange) -> None:
    exchange.holes = ((NOW - NOW % HOUR - 3 * HOUR, NOW + HOUR),)
    with client_of(exchange) as client:
        found = client.klines("linear", "BTCUSDT", "1h", NOW - 6 * HOUR, NOW)
    assert len(found.missing) == 3
    assert found.frame.height == 2


def test_an_empty_range_before_the_listing_has_the_right_columns(exchange: FakeExchange) -> None:
    with client_of(exchange) as client:
        found = client.klines("linear", "SOLUSDT", "1d", MARCH_2020 - 9 * DAY, MARCH_2020)
        assert (found.frame.height, found.frame.width, found.missing) == (0, 7, [])
        assert found.frame.schema["open_time"] == pl.Datetime("ms", "UTC")
