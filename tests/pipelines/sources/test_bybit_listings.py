"""Mark prices, funding, instruments, and the grid of open times."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.sources.bybit import BadRequest, BybitError
from pipelines.sources.bybit_rows import INTERVALS, interval
from tests.fakes.exchange import (
    FUNDING,
    INSTRUMENTS,
    INSTRUMENTS_LISTED,
    KLINE,
    MARCH_2020,
    MARK,
    NOW,
    FakeExchange,
    Fault,
    Seen,
)
from tests.fakes.faults import ALWAYS, rows
from tests.fakes.prices import Instrument, bucket, funding_of
from tests.fakes.truth import at, client_of, truth

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
LAST_CLOSED = NOW - NOW % MINUTE - MINUTE  # the minute that ended 20 s ago


# The other endpoints


def test_inverse_volume_is_in_dollars(exchange: FakeExchange) -> None:
    with client_of(exchange) as client:
        found = client.klines("inverse", "BTCUSD", "1h", NOW - 50 * HOUR, NOW)
    assert found.frame.equals(truth("inverse", "BTCUSD", "60", NOW - 50 * HOUR, NOW))
    assert (found.frame["volume"] / found.frame["close"] - found.frame["turnover"]).abs().max() < 1e-6  # type: ignore[operator]


def test_mark_prices_come_from_their_own_endpoint(exchange: FakeExchange) -> None:
    with client_of(exchange) as client:
        found = client.mark_klines("linear", "BTCUSDT", "15m", NOW - 1500 * 15 * MINUTE, NOW)
        with pytest.raises(BadRequest):
            client.mark_klines("spot", "BTCUSDT", "15m", NOW - DAY, NOW)
    assert found.frame.columns == ["open_time", "open", "high", "low", "close"]
    assert found.frame.height == 1499  # neither the one before the start nor the open one
    assert {seen.path for seen in exchange.requests} == {MARK}


def test_funding_is_complete_through_changes_of_its_interval(exchange: FakeExchange) -> None:
    sol = next(one for one in INSTRUMENTS_LISTED if one.symbol == "SOLUSDT")
    start = 1_698_000_000_000  # 8 h apart, then 4 h, then 1 h
    with client_of(exchange) as client:
        found = client.funding_history("linear", "SOLUSDT", start, NOW)
    expected = funding_of(sol, start, NOW, NOW)
    assert found.columns == ["symbol", "funding_time", "rate"]
    assert found["funding_time"].to_list() == [at(time) for time, _ in expected]
    assert found["rate"].to_list() == [float(rate) for _, rate in expected]
    assert set(found["funding_time"].diff().drop_nulls().to_list()) == {timedelta(hours=h) for h in (1, 4, 8)}
    assert all("endTime" in asked for asked in exchange.asked(FUNDING))  # `startTime` alone is an error
    assert len({tuple(asked.items()) for asked in exchange.asked(FUNDING)}) == len(exchange.asked(FUNDING))


def _with(record: dict[str, object], records: list[object]) -> list[object]:
    return [*records, record]


def test_funding_survives_an_empty_page_and_refuses_contradictions(exchange: FakeExchange) -> None:
    start = NOW - 300 * 8 * HOUR
    with client_of(exchange) as client:
        exchange.fail(Fault(edit=rows(lambda r: [])), skip=1, path=FUNDING)
        assert client.funding_history("linear", "BTCUSDT", start, NOW).height == 300
        assert client.funding_history("linear", "BTCUSDT", MARCH_2020 - 9 * DAY, MARCH_2020).height == 0
        record = {
            "symbol": "BTCUSDT",
            "fundingRate": "0.5",
            "fundingRateTimestamp": str(NOW - NOW % (8 * HOUR)),
        }
        for change in (
            {},
            {"fundingRate": "NaN"},
            {"fundingRate": 0.1},
            {"fundingRate": "7"},
            {"symbol": "ETHUSDT"},
            {"fundingRateTimestamp": "1717200"},
            {"fundingRateTimestamp": str(NOW + 1)},
        ):
            wrong = {**record, **change}
            exchange.fail(Fault(edit=rows(partial(_with, wrong))), path=FUNDING)
            with pytest.raises(BybitError) as caught:
                client.funding_history("linear", "BTCUSDT", start, NOW)
            assert caught.value.kind == "bad_data"
        exchange.fail(Fault(edit=rows(lambda r: r + r)), path=FUNDING, times=ALWAYS)
        assert client.funding_history("linear", "BTCUSDT", start, NOW).height == 300
        with pytest.raises(BadRequest):
            client.funding_history("spot", "BTCUSDT", start, NOW)


def test_instruments_are_read_page_by_page(exchange: FakeExchange) -> None:
    many = [
        Instrument("linear", f"C{n:04d}USDT", f"C{n:04d}", "USDT", NOW - DAY, NOW - DAY) for n in range(2300)
    ]
    exchange.listed = (*INSTRUMENTS_LISTED, *many)
    with client_of(exchange) as client:
        found = client.instruments("linear")
        assert found.height == 2303
        assert found["symbol"].is_sorted()
        assert len(exchange.asked(INSTRUMENTS)) == 3
        btc = found.row(by_predicate=pl.col("symbol") == "BTCUSDT", named=True)
        assert (btc["tick_size"], btc["qty_step"], btc["min_notional"]) == (0.1, 0.001, 5.0)
        assert (btc["launch_time"], btc["delivery_time"]) == (datetime(2020, 3, 30, tzinfo=UTC), None)
        assert btc["funding_interval_minutes"] == 480
        assert client.instruments("linear", status="Closed")["symbol"].to_list() == ["OLDUSDT"]
        spot = client.instruments("spot")
        assert (spot["qty_step"][0], spot["launch_time"][0]) == (0.001, None)


@pytest.mark.parametrize(
    ("edit", "kind"),
    [
        (lambda e: e["result"].__setitem__("nextPageCursor", "0"), "bad_answer"),
        (lambda e: e["result"].__setitem__("nextPageCursor", 7), "bad_answer"),
        (lambda e: e["result"]["list"][0].pop("symbol"), "bad_data"),
        (lambda e: e["result"]["list"][0].pop("priceFilter"), "bad_data"),
        (lambda e: e["result"]["list"][0]["priceFilter"].__setitem__("tickSize", "0"), "bad_data"),
        (lambda e: e["result"]["list"][0]["lotSizeFilter"].__setitem__("qtyStep", "NaN"), "bad_data"),
        (lambda e: e["result"]["list"][0].__setitem__("contractType", "InversePerpetual"), "bad_data"),
        (lambda e: e["result"]["list"][0].__setitem__("status", None), "bad_data"),
        (lambda e: e["result"]["list"].append({**e["result"]["list"][0], "baseCoin": "X"}), "bad_data"),
        (lambda e: e["result"].__setitem__("category", "spot"), "bad_data"),
    ],
)
def test_instruments_are_checked(
    exchange: FakeExchange, edit: Callable[[dict[str, Any]], object], kind: str
) -> None:
    exchange.fail(Fault(edit=edit), times=ALWAYS, path=INSTRUMENTS)
    with client_of(exchange) as client, pytest.raises(BybitError) as caught:
        client.instruments("linear")
    assert caught.value.kind == kind
    assert len(exchange.requests) <= 2


# The grid


@given(code=st.sampled_from(list(INTERVALS)), time=st.integers(10**11, 4 * 10**12))
def test_the_grid_covers_time_without_gaps(code: str, time: int) -> None:
    grid = INTERVALS[code]
    floor, ceil = grid.floor(time), grid.ceil(time)
    assert floor <= time <= ceil
    assert floor == ceil if grid.floor(time) == time else ceil == int(grid.closes(np.array([floor]))[0])
    assert floor == int(bucket(time, code))
    pages = list(grid.pages(floor, grid.floor(floor + 50 * (grid.step or 31 * DAY)), 7))
    opens = np.concatenate([grid.opens(*page) for page in pages])
    assert all(grid.opens(*page).size <= 7 for page in pages)
    assert np.array_equal(opens, grid.opens(floor, int(opens[-1])))


@pytest.mark.parametrize(("code", "month", "day"), [("W", 5, 27), ("M", 5, 1), ("D", 5, 31)])
def test_long_bars_open_where_people_expect(code: str, month: int, day: int) -> None:
    late = datetime(2024, 5, 31, 23, 59, tzinfo=UTC)
    floor = interval(code).floor(int(late.timestamp() * 1000))
    assert at(floor) == datetime(2024, month, day, tzinfo=UTC)


def test_our_names_and_the_exchanges_codes_agree() -> None:
    names = {"1m": "1", "5m": "5", "1h": "60", "4h": "240", "12h": "720", "1d": "D"}
    assert {name: interval(name).code for name in names} == names


def test_seen_requests_are_what_was_sent(exchange: FakeExchange) -> None:
    with client_of(exchange) as client:
        client.klines("spot", "BTCUSDT", "5m", NOW - HOUR, NOW)
    (seen,) = exchange.requests
    assert isinstance(seen, Seen)
    assert (seen.path, seen.params["interval"], seen.params["symbol"]) == (KLINE, "5", "BTCUSDT")
