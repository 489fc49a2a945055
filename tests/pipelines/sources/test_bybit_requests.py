"""What the client asks, what it refuses to ask, how fast, and how much at once."""

from __future__ import annotations

import math
import pickle
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipelines.sources.bybit import BadRequest, BybitClient, BybitError, Progress, Query
from pipelines.sources.bybit_http import TokenBucket
from tests.fakes.exchange import (
    NOW,
    TIME,
    FakeExchange,
    Fault,
)
from tests.fakes.truth import VirtualClock, at, client_of, truth

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
LAST_CLOSED = NOW - NOW % MINUTE - MINUTE  # the minute that ended 20 s ago


# Questions that are refused


@pytest.mark.parametrize(
    ("category", "symbol", "name", "start", "end", "message"),
    [
        ("linear", "BTCUSDT", "1m", NOW // 1000, NOW, "seconds"),
        ("linear", "BTCUSDT", "1m", NOW - HOUR, NOW // 1000, "seconds"),
        ("linear", "BTCUSDT", "1m", NOW * 1000, NOW * 1000 + 1, "milliseconds"),
        ("linear", "BTCUSDT", "1m", -NOW, NOW, "milliseconds"),
        ("linear", "BTCUSDT", "1m", 0, NOW, "milliseconds"),
        ("linear", "BTCUSDT", "1m", NOW, NOW - 1, "after end"),
        ("linear", "BTCUSDT", "1m", True, NOW, "start"),
        ("linear", "BTCUSDT", "1m", float(NOW), NOW, "start"),
        ("linear", "BTCUSDT", "1m", str(NOW), NOW, "start"),
        ("linear", "BTCUSDT", "1m", datetime(2024, 1, 1), NOW, "without a zone"),
        ("linear", "BTCUSDT", "1m", datetime(1960, 1, 1, tzinfo=UTC), NOW, "after 1973"),
        ("linear", "BTCUSDT", 60, NOW - HOUR, NOW, "interval"),
        ("linear", "BTCUSDT", "7m", NOW - HOUR, NOW, "interval"),
        ("linear", "BTCUSDT", "1M", NOW - HOUR, NOW, "interval"),
        ("linear", "btcusdt", "1m", NOW - HOUR, NOW, "upper case"),
        ("linear", "BTC/USDT:USDT", "1m", NOW - HOUR, NOW, "upper case"),
        ("linear", "BTCUSDT&limit=1", "1m", NOW - HOUR, NOW, "upper case"),
        ("inverse", "BTCUSDT", "1m", NOW - HOUR, NOW, "inverse"),
        ("option", "BTCUSDT", "1m", NOW - HOUR, NOW, "category"),
        ("", "BTCUSDT", "1m", NOW - HOUR, NOW, "category"),
    ],
)
def test_bad_questions_are_refused_before_anything_is_sent(
    exchange: FakeExchange,
    category: str,
    symbol: str,
    name: str,
    start: int | datetime,
    end: int | datetime,
    message: str,
) -> None:
    with client_of(exchange) as client:
        for ask in (client.klines, client.mark_klines, client.iter_klines):
            with pytest.raises(BybitError, match=message) as caught:
                ask(category, symbol, name, start, end)
            assert caught.value.kind == "bad_request"
            assert isinstance(caught.value, ValueError)
    assert exchange.requests == []


def test_an_unknown_symbol_is_a_bad_request(exchange: FakeExchange) -> None:
    with client_of(exchange) as client, pytest.raises(BybitError, match="Not supported symbols") as caught:
        client.klines("linear", "NOSUCHUSDT", "1m", NOW - HOUR, NOW)
    assert (caught.value.kind, caught.value.code, caught.value.status) == ("bad_request", 10001, 200)
    assert len(exchange.requests) == 1


@pytest.mark.parametrize(
    ("base_url", "options"),
    [
        ("api.bybit.com", {}),
        ("ftp://api.bybit.com", {}),
        ("https://key:secret@api.bybit.com", {}),
        ("https://api.bybit.com/v5?api_key=1", {}),
        ("http://[::1", {}),
        ("https://api.bybit.com", {"requests_per_second": 121}),
        ("https://api.bytick.com", {"requests_per_second": math.inf}),
        ("https://api.bybit.com", {"requests_per_second": 0}),
        ("https://api.bybit.com", {"timeout": math.nan}),
        ("https://api.bybit.com", {"grace": -1}),
        ("https://api.bybit.com", {"workers": 0}),
        ("https://api.bybit.com", {"max_retries": -1}),
    ],
)
def test_bad_settings_are_refused(base_url: str, options: dict[str, float]) -> None:
    with pytest.raises(BadRequest) as caught:
        BybitClient(base_url, **options)  # type: ignore[arg-type]
    assert "secret" not in str(caught.value)


def test_errors_survive_a_pickle_and_say_where() -> None:
    error = BybitError("banned", "why", url="https://host/path", status=403, code=10018)
    for again in (error, pickle.loads(pickle.dumps(error))):
        assert str(again) == "banned: why (https://host/path, HTTP 403, retCode 10018)"
        assert (again.kind, again.status, again.code) == ("banned", 403, 10018)
    assert str(pickle.loads(pickle.dumps(BadRequest("what")))) == "bad_request: what"


# What is sent, and how fast


def test_requests_carry_no_body_and_no_credentials(
    exchange: FakeExchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with client_of(exchange) as client:
        client.server_time()
    (seen,) = exchange.requests
    assert seen.path == TIME
    assert not {"authorization", "content-length", "content-type", "cookie"} & {
        n.lower() for n in seen.headers
    }


def test_the_bucket_keeps_the_rate_in_every_five_seconds() -> None:
    clock = VirtualClock()
    bucket_60 = TokenBucket(60.0, clock.time, clock.sleep)
    sent = []
    for turn in range(900):
        clock.now += 3.0 if turn == 400 else 0.0  # an idle time earns no more than a little burst
        bucket_60.take()
        sent.append(clock.now)
    times = np.array(sent)
    in_five_seconds = [np.count_nonzero((times >= t) & (times < t + 5)) for t in times]
    assert 300 <= max(in_five_seconds) <= 306
    bucket_60.pause(7.0)
    before = clock.now
    bucket_60.take()
    assert clock.now - before == pytest.approx(7.0)


def test_a_limit_that_one_question_meets_holds_for_the_next(exchange: FakeExchange) -> None:
    clock = VirtualClock()
    exchange.fail(Fault(code=10006, headers=(("X-Bapi-Limit-Reset-Timestamp", str(NOW + 7000)),)))
    with client_of(exchange, clock=clock.time, sleep=clock.sleep, max_retries=0) as client:
        with pytest.raises(BybitError, match="10006"):
            client.klines("linear", "BTCUSDT", "1m", LAST_CLOSED, LAST_CLOSED)
        assert clock.waits == []
        assert client.klines("linear", "BTCUSDT", "1m", LAST_CLOSED, LAST_CLOSED).frame.height == 1
        assert sum(clock.waits) == pytest.approx(7.0)


def test_the_rate_holds_with_many_workers(exchange: FakeExchange) -> None:
    with client_of(exchange, workers=8, requests_per_second=100) as client:
        client.klines("linear", "BTCUSDT", "1m", LAST_CLOSED - 59_999 * MINUTE, LAST_CLOSED)
    times = [seen.at for seen in exchange.requests]
    assert len(times) == 60
    assert max(times) - min(times) >= 0.45  # 60 requests at 100 a second, ten of them at once


# Several at once


def test_many_symbols_come_in_the_order_of_the_questions(exchange: FakeExchange) -> None:
    start = NOW - 3000 * HOUR
    queries = [
        Query(category, symbol, "1h", start + n * HOUR, NOW)
        for n, (category, symbol) in enumerate(
            [("linear", "ETHUSDT"), ("inverse", "BTCUSD"), ("spot", "BTCUSDT"), ("linear", "BTCUSDT")] * 2
        )
    ]
    told: list[Progress] = []
    with client_of(exchange, workers=6, progress=told.append) as client:
        together = client.klines_many(queries)
    assert [step.windows_done for step in told] == list(range(1, 25))
    assert {step.windows for step in told} == {24}
    assert told[-1].bars == sum(found.frame.height for found in together)
    for query, found in zip(queries, together, strict=True):
        assert isinstance(query.start, int)
        assert found.frame.equals(truth(query.category, query.symbol, "60", query.start, NOW))
        assert found.missing == []
    assert together[0].frame["close"][5] != together[3].frame["close"][5]


def test_many_symbols_can_come_window_by_window(exchange: FakeExchange) -> None:
    queries = [Query("linear", symbol, "1m", NOW - 40 * HOUR, NOW) for symbol in ("ETHUSDT", "BTCUSDT")]
    with client_of(exchange) as client:
        pieces = list(client.iter_klines_many(queries))
        whole = client.klines_many(queries)
    assert [number for number, _ in pieces] == [0, 0, 0, 1, 1, 1]
    for wanted, together in enumerate(whole):
        frames = [piece.frame for number, piece in pieces if number == wanted]
        assert pl.concat(frames).equals(together.frame)


def test_windows_are_handed_out_as_they_come_and_not_all_read_ahead(exchange: FakeExchange) -> None:
    start = LAST_CLOSED - 99_999 * MINUTE
    with client_of(exchange, workers=2) as client:
        pieces = client.iter_klines("linear", "BTCUSDT", "1m", start, LAST_CLOSED)
        first, second = next(pieces), next(pieces)
        time.sleep(0.5)  # long enough for a reader without a bound to run on
        assert len(exchange.requests) <= 8  # of 100
        assert first.covered == (at(start), at(start + 999 * MINUTE))
        assert second.frame["open_time"][0] == at(start + 1000 * MINUTE)


def test_a_keyboard_interrupt_leaves_no_thread(exchange: FakeExchange) -> None:
    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    client = client_of(exchange, progress=interrupt)
    with pytest.raises(KeyboardInterrupt):
        client.klines("linear", "BTCUSDT", "1m", LAST_CLOSED - 99_999 * MINUTE, LAST_CLOSED)
    assert len(exchange.requests) <= 8
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("bybit")]
    with pytest.raises(BybitError, match="closed"):
        client.klines("linear", "BTCUSDT", "1m", LAST_CLOSED, LAST_CLOSED)
    with pytest.raises(BybitError, match="closed"):
        client.server_time()
