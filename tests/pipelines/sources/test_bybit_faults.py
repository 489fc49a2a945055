"""Every fault ends in the full truth or in a clear error, in bounded time; nothing wrong is handed out."""

from __future__ import annotations

import socket
import threading
import time
import tracemalloc
from email.utils import formatdate
from typing import get_args

import polars as pl
import pytest

from pipelines.sources.bybit import BybitClient, BybitError
from pipelines.sources.bybit_answers import Kind
from tests.fakes.exchange import KLINE, NOW, FakeExchange, Fault
from tests.fakes.faults import ALWAYS, BANNED, CLOUDFRONT, TRUTH, Row, fault_table
from tests.fakes.truth import VirtualClock, client_of, truth

MINUTE = 60_000
START = NOW - NOW % MINUTE - 2600 * MINUTE
END = START + 2499 * MINUTE  # three pages, all of them closed
MAX_TOTAL_WAIT = 60.0
TABLE = fault_table(NOW)


def patient(exchange: FakeExchange, clock: VirtualClock, **settings: float) -> BybitClient:
    """A client whose waits take no time."""
    usual = {"max_retries": 4, "max_wait": 20.0, "max_total_wait": MAX_TOTAL_WAIT}
    clocks = {"clock": clock.time, "sleep": clock.sleep}
    return client_of(exchange, workers=1, **{**usual, **clocks, **settings})


def test_the_table_has_at_least_sixty_kinds_of_fault() -> None:
    assert len({row.name for row in TABLE}) == len(TABLE) >= 60
    assert {row.expected for row in TABLE} == {TRUTH, *get_args(Kind)}


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_fault(row: Row, exchange: FakeExchange) -> None:
    clock = VirtualClock()
    exchange.fail(row.fault, times=row.times, skip=1)  # the first page is good
    slow = {"timeout": 0.5, "max_retries": 1} if row.fault.wire in ("hang", "drip", "drip_headers") else {}
    expected = truth("linear", "BTCUSDT", "1", START, END)
    pieces: list[pl.DataFrame] = []
    error: BybitError | None = None
    began = time.monotonic()
    with patient(exchange, clock, **slow) as client:
        try:
            for piece in client.iter_klines("linear", "BTCUSDT", "1m", START, END):
                assert piece.missing == []
                pieces.append(piece.frame)
        except BybitError as caught:
            error = caught
    handed_out = pl.concat(pieces)
    # Nothing wrong, whole windows only, in order.
    assert handed_out.equals(expected.head(handed_out.height))
    if row.expected == TRUTH:
        assert error is None
        assert handed_out.equals(expected)
    else:
        assert error is not None
        assert (error.kind, handed_out.height) == (row.expected, 1000)
        assert error.url.startswith(exchange.url)
        assert KLINE in error.url
    # Bounded: real time, waited time, requests, and no wait before the moment it starts.
    assert time.monotonic() - began < 8.0
    assert all(0 < wait <= 20.0 for wait in clock.waits)
    assert sum(clock.waits) <= 2 * MAX_TOTAL_WAIT  # the window that failed, and the next one, under way
    assert len(exchange.asked()) <= (2 if row.expected in ("banned", "region_blocked") else 12)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(status=403, body=BANNED), "banned"),
        (Fault(status=403, body=CLOUDFRONT), "region_blocked"),
        (Fault(code=10018), "banned"),
        (Fault(code=10009), "region_blocked"),
    ],
)
def test_after_a_ban_nothing_is_sent_for_ten_minutes(exchange: FakeExchange, fault: Fault, kind: str) -> None:
    clock = VirtualClock()
    exchange.fail(fault, times=1, path=None)
    with patient(exchange, clock) as client:
        for _ in range(3):
            with pytest.raises(BybitError) as caught:
                client.klines("linear", "BTCUSDT", "1m", START, END)
            assert caught.value.kind == kind
        assert len(exchange.requests) == 1
        assert clock.waits == []
        clock.now += 599
        with pytest.raises(BybitError, match="nothing was sent"):
            client.server_time()
        clock.now += 2
        assert client.server_time() == NOW
    assert len(exchange.requests) == 2


def test_a_ban_stops_the_other_workers_too(exchange: FakeExchange) -> None:
    exchange.fail(Fault(status=403, body=BANNED), times=ALWAYS, skip=3)
    with (
        BybitClient(exchange.url, requests_per_second=200, workers=4, wall_clock=lambda: NOW / 1e3) as client,
        pytest.raises(BybitError) as caught,
    ):
        client.klines("linear", "BTCUSDT", "1m", START - 50_000 * MINUTE, END)
    assert caught.value.kind == "banned"
    assert len(exchange.requests) <= 3 + 4  # those under way, and no more


def test_a_refused_connection_is_unavailable() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, never listening
        clock = VirtualClock()
        with BybitClient(
            f"http://127.0.0.1:{held.getsockname()[1]}", clock=clock.time, sleep=clock.sleep, max_retries=2
        ) as client:
            with pytest.raises(BybitError) as caught:
                client.server_time()
            assert (caught.value.kind, client.requests_sent, caught.value.status) == ("unavailable", 3, None)


@pytest.mark.parametrize(
    ("headers", "body_code", "status", "least", "most"),
    [
        ((("X-Bapi-Limit-Reset-Timestamp", str(NOW + 7_000)),), 10006, 200, 7.0, 7.0),
        ((("Retry-After", "9"),), None, 429, 9.0, 9.0),
        ((("Retry-After", "9"),), None, 503, 9.0, 9.0),
        ((("Retry-After", "86400"),), None, 429, 20.0, 20.0),
        ((("X-Bapi-Limit-Reset-Timestamp", str(NOW - 7_000)),), 10006, 200, 0.25, 0.5),
        ((), 10006, 200, 0.25, 0.5),
    ],
)
def test_waits_as_long_as_asked(
    exchange: FakeExchange,
    headers: tuple[tuple[str, str], ...],
    body_code: int | None,
    status: int,
    least: float,
    most: float,
) -> None:
    clock = VirtualClock()
    exchange.fail(Fault(status=status, code=body_code, headers=headers), times=1)
    with patient(exchange, clock) as client:
        client.klines("linear", "BTCUSDT", "1m", START, START + MINUTE)
    assert least <= sum(clock.waits) <= most + 0.01


def test_a_date_to_wait_for_is_read_by_the_servers_clock(exchange: FakeExchange) -> None:
    clock = VirtualClock()
    # The fake sends today's date with its answers, whatever its own clock says.
    when = formatdate(time.time() + 12, usegmt=True)
    exchange.fail(Fault(status=429, headers=(("Retry-After", when),)), times=1)
    with patient(exchange, clock) as client:
        client.klines("linear", "BTCUSDT", "1m", START, START + MINUTE)
    assert 5.0 <= sum(clock.waits) <= 13.0


def test_waiting_ends_at_the_total(exchange: FakeExchange) -> None:
    clock = VirtualClock()
    exchange.fail(Fault(status=429, headers=(("Retry-After", "15"),)), times=ALWAYS)
    with patient(exchange, clock, max_retries=50) as client, pytest.raises(BybitError) as caught:
        client.klines("linear", "BTCUSDT", "1m", START, START + MINUTE)
    assert (caught.value.kind, caught.value.retry_after) == ("rate_limited", 15.0)
    assert sum(clock.waits) == 60.0
    assert len(exchange.requests) == 5


def test_another_host_is_never_contacted(exchange: FakeExchange) -> None:
    with FakeExchange() as other:
        exchange.fail(Fault(status=307, headers=(("Location", other.url + KLINE),)), times=ALWAYS)
        with patient(exchange, VirtualClock()) as client, pytest.raises(BybitError, match="another host"):
            client.klines("linear", "BTCUSDT", "1m", START, END)
        assert other.requests == []


def test_a_redirect_on_the_same_host_is_followed(exchange: FakeExchange) -> None:
    window = f"?category=linear&symbol=BTCUSDT&interval=1&start={START}&end={START + MINUTE}&limit=1000"
    exchange.fail(Fault(status=308, headers=(("Location", KLINE + window),)), times=2)
    with patient(exchange, VirtualClock()) as client:
        found = client.klines("linear", "BTCUSDT", "1m", START, START + MINUTE)
    assert found.frame.height == 2
    assert len(exchange.requests) == 3


def test_a_gzip_bomb_takes_no_memory(exchange: FakeExchange) -> None:
    bomb = next(row.fault for row in TABLE if row.name == "body: gzip bomb")
    exchange.fail(bomb, times=1)
    with patient(exchange, VirtualClock()) as client:
        tracemalloc.start()
        with pytest.raises(BybitError, match="exceeds"):
            client.klines("linear", "BTCUSDT", "1m", START, START + MINUTE)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 32 * 2**20  # the bomb is 64 MiB


@pytest.mark.parametrize(
    "fault", [Fault(wire="hang"), Fault(status=429, headers=(("Retry-After", "25"),))], ids=["read", "wait"]
)
def test_closing_ends_what_is_under_way_at_once(exchange: FakeExchange, fault: Fault) -> None:
    exchange.fail(fault, times=ALWAYS)
    client = BybitClient(exchange.url, timeout=30, wall_clock=lambda: NOW / 1e3)
    kinds: list[str] = []

    def read() -> None:
        try:
            client.klines("linear", "BTCUSDT", "1m", START, END)
        except BybitError as error:
            kinds.append(error.kind)

    reader = threading.Thread(target=read)
    reader.start()
    while not exchange.requests:
        time.sleep(0.01)
    time.sleep(0.2)
    began = time.monotonic()
    client.close()
    reader.join(5)
    assert time.monotonic() - began < 2.0
    assert kinds == ["unavailable"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("bybit")]
