"""The fake exchange itself: it does what the documentation and the recorded answers say."""

from __future__ import annotations

from typing import Any

import requests

from tests.fakes.exchange import FUNDING, INSTRUMENTS, KLINE, MARCH_2020, NOW, TIME, FakeExchange, Fault

MINUTE, HOUR = 60_000, 3_600_000
BASE = NOW - NOW % HOUR - 100 * HOUR


def ask(exchange: FakeExchange, path: str = KLINE, **params: Any) -> dict[str, Any]:
    if path == KLINE:
        params = {"category": "linear", "symbol": "BTCUSDT", "interval": "1", **params}
    answer: dict[str, Any] = requests.get(exchange.url + path, params=params, timeout=5).json()
    return answer


def times(answer: dict[str, Any]) -> list[int]:
    return [int(row[0]) for row in answer["result"]["list"]]


def test_both_ends_are_included_newest_first(exchange: FakeExchange) -> None:
    answer = ask(exchange, start=BASE, end=BASE + 10 * MINUTE)
    assert times(answer) == [BASE + n * MINUTE for n in range(10, -1, -1)]
    assert (answer["retCode"], answer["time"]) == (0, NOW)
    assert all(len(row) == 7 and set(map(type, row)) == {str} for row in answer["result"]["list"])


def test_a_start_inside_a_bar_gives_that_bar(exchange: FakeExchange) -> None:
    assert times(ask(exchange, start=BASE + 8_000, end=BASE + MINUTE)) == [BASE + MINUTE, BASE]


def test_a_window_that_is_too_wide_gives_its_newest_bars(exchange: FakeExchange) -> None:
    assert times(ask(exchange, start=BASE, end=BASE + 99 * MINUTE, limit=2)) == [
        BASE + 99 * MINUTE,
        BASE + 98 * MINUTE,
    ]
    assert len(times(ask(exchange, start=BASE, end=BASE + 500 * MINUTE))) == 200
    assert len(times(ask(exchange, start=BASE, end=BASE + 5000 * MINUTE, limit=5000))) == 1000


def test_a_start_alone_gives_the_first_bars_from_there(exchange: FakeExchange) -> None:
    assert times(ask(exchange, start=BASE, limit=3)) == [BASE + 2 * MINUTE, BASE + MINUTE, BASE]
    assert times(ask(exchange, start=9999, limit=1)) == [MARCH_2020]


def test_without_a_window_the_open_candle_comes_first(exchange: FakeExchange) -> None:
    answer = ask(exchange)
    assert times(answer)[0] == NOW - NOW % MINUTE
    assert len(times(answer)) == 200
    exchange.now += 30_000
    assert ask(exchange)["result"]["list"][0] != answer["result"]["list"][0]  # it still changes
    assert ask(exchange)["result"]["list"][1] == answer["result"]["list"][1]


def test_bars_of_all_intervals_agree(exchange: FakeExchange) -> None:
    minutes = [
        list(map(float, row)) for row in ask(exchange, start=BASE, end=BASE + 59 * MINUTE)["result"]["list"]
    ]
    (hour,) = ask(exchange, interval="60", start=BASE, end=BASE)["result"]["list"]
    assert [float(field) for field in hour[1:5]] == [
        minutes[-1][1], max(row[2] for row in minutes), min(row[3] for row in minutes), minutes[0][4],
    ]  # fmt: skip
    assert abs(float(hour[5]) - sum(row[5] for row in minutes)) < 1e-6


def test_nothing_there_is_no_error(exchange: FakeExchange) -> None:
    for start, end in ((NOW // 1000, NOW // 1000 + 60), (MARCH_2020 - 99, MARCH_2020 - 9)):
        answer = ask(exchange, start=start, end=end)
        assert (answer["retCode"], answer["result"]["list"]) == (0, [])
        assert answer["result"]["symbol"] == "BTCUSDT"
    exchange.holes = ((BASE, BASE + 5 * MINUTE),)
    assert times(ask(exchange, start=BASE, end=BASE + 5 * MINUTE)) == [BASE + 5 * MINUTE]


def test_errors_have_their_documented_codes(exchange: FakeExchange) -> None:
    for params, message in (
        ({"interval": "7"}, "Invalid period!"),
        ({"symbol": "btcusdt"}, "Not supported symbols"),
        ({"category": "option"}, "params error: Category is invalid"),
        ({"start": "x"}, "params error: start invalid"),
    ):
        answer = ask(exchange, **params)
        assert (answer["retCode"], answer["retMsg"], answer["result"]) == (10001, message, {})
    assert requests.get(exchange.url + "/v5/nowhere", timeout=5).status_code == 404


def test_the_category_is_linear_by_default(exchange: FakeExchange) -> None:
    answer = requests.get(
        exchange.url + KLINE, params={"symbol": "BTCUSDT", "interval": "1"}, timeout=5
    ).json()
    assert answer["result"]["category"] == "linear"
    labelled = ask(exchange, category="inverse", limit=1)["result"]  # seen at the real exchange
    assert (labelled["category"], labelled["list"]) == ("inverse", ask(exchange, limit=1)["result"]["list"])


def test_funding_needs_an_end_with_its_start(exchange: FakeExchange) -> None:
    asked = {"category": "linear", "symbol": "BTCUSDT"}
    assert ask(exchange, FUNDING, **asked, startTime=BASE)["retCode"] == 10001
    records = ask(exchange, FUNDING, **asked, limit=500)["result"]["list"]
    assert len(records) == 200
    assert int(records[0]["fundingRateTimestamp"]) == NOW - NOW % (8 * HOUR)
    one = ask(exchange, FUNDING, **asked, startTime=BASE - 900 * HOUR, endTime=BASE, limit=1)["result"][
        "list"
    ]
    assert BASE - 8 * HOUR < int(one[0]["fundingRateTimestamp"]) <= BASE  # the newest of the window


def test_instruments_hide_what_does_not_trade_and_come_in_pages(exchange: FakeExchange) -> None:
    first = ask(exchange, INSTRUMENTS, category="linear", limit=2)["result"]
    second = ask(exchange, INSTRUMENTS, category="linear", limit=2, cursor=first["nextPageCursor"])["result"]
    assert [one["symbol"] for one in first["list"] + second["list"]] == ["BTCUSDT", "ETHUSDT", "SOLUSDT"]
    assert second["nextPageCursor"] == ""
    closed = ask(exchange, INSTRUMENTS, category="linear", symbol="OLDUSDT", status="Closed")["result"][
        "list"
    ]
    assert closed[0]["deliveryTime"] == "1672531200000"


def test_a_planned_fault_meets_its_requests_only(exchange: FakeExchange) -> None:
    exchange.fail(Fault(code=10006), times=2, skip=1)
    assert [ask(exchange)["retCode"] for _ in range(4)] == [0, 10006, 10006, 0]
    assert ask(exchange, TIME)["result"] == {"timeSecond": str(NOW // 1000), "timeNano": f"{NOW}000000"}
