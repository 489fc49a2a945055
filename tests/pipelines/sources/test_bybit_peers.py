"""Other people's clients against the same fake exchange: it satisfies them, and they agree with us."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pipelines.sources.bybit import BybitClient, BybitError
from tests.fakes.exchange import NOW, FakeExchange, Fault
from tests.fakes.faults import ALWAYS, HTML

MINUTE, HOUR = 60_000, 3_600_000
START = NOW - NOW % HOUR - 150 * HOUR
END = START + 140 * HOUR

UNIFIED = {  # ccxt's names of the symbols
    ("linear", "BTCUSDT"): "BTC/USDT:USDT",
    ("inverse", "BTCUSD"): "BTC/USD:BTC",
    ("spot", "BTCUSDT"): "BTC/USDT",
}


@pytest.fixture(scope="module")
def exchange() -> Iterator[FakeExchange]:
    with FakeExchange() as running:
        yield running


def ours(exchange: FakeExchange, category: str, symbol: str, interval: str = "1h") -> list[list[float]]:
    with BybitClient(exchange.url, wall_clock=lambda: NOW / 1e3) as client:
        frame = client.klines(category, symbol, interval, START, END).frame
    times = frame["open_time"].dt.epoch("ms").to_list()
    return [[time, *row[1:]] for time, row in zip(times, frame.iter_rows(), strict=True)]


@pytest.fixture(scope="module")
def pybit(exchange: FakeExchange) -> Any:
    session = pytest.importorskip("pybit.unified_trading", reason="uv sync --group peers").HTTP()
    session.endpoint = exchange.url
    return session


@pytest.fixture(scope="module")
def ccxt(exchange: FakeExchange) -> Any:
    client = pytest.importorskip("ccxt", reason="uv sync --group peers").bybit(
        {"options": {"fetchMarkets": {"types": ["spot", "linear", "inverse"]}, "fetchCurrencies": False}}
    )
    client.urls["api"] = dict.fromkeys(client.urls["api"], exchange.url)
    client.enableRateLimit = False
    return client


@pytest.mark.parametrize(
    ("category", "symbol"), [("linear", "BTCUSDT"), ("inverse", "BTCUSD"), ("spot", "BTCUSDT")]
)
def test_pybit_agrees(exchange: FakeExchange, pybit: Any, category: str, symbol: str) -> None:
    answer = pybit.get_kline(category=category, symbol=symbol, interval=60, start=START, end=END, limit=1000)
    theirs = [[int(row[0]), *map(float, row[1:])] for row in reversed(answer["result"]["list"])]
    assert len(theirs) == 141
    assert theirs == ours(exchange, category, symbol)


def test_pybit_reads_time_funding_and_instruments(exchange: FakeExchange, pybit: Any) -> None:
    with BybitClient(exchange.url, wall_clock=lambda: NOW / 1e3) as client:
        assert int(pybit.get_server_time()["result"]["timeNano"]) // 10**6 == client.server_time()
        answer = pybit.get_funding_rate_history(
            category="linear", symbol="ETHUSDT", startTime=START, endTime=END
        )
        theirs = [float(record["fundingRate"]) for record in reversed(answer["result"]["list"])]
        assert theirs == client.funding_history("linear", "ETHUSDT", START, END)["rate"].to_list()
        listed = pybit.get_instruments_info(category="linear")["result"]["list"]
        assert sorted(one["symbol"] for one in listed) == client.instruments("linear")["symbol"].to_list()


def test_pybit_takes_the_open_candle_and_we_do_not(exchange: FakeExchange, pybit: Any) -> None:
    newest = pybit.get_kline(category="linear", symbol="BTCUSDT", interval=60)["result"]["list"][0]
    assert int(newest[0]) == NOW - NOW % HOUR
    with BybitClient(exchange.url, wall_clock=lambda: NOW / 1e3) as client:
        last = client.klines("linear", "BTCUSDT", "1h", START, NOW).frame["open_time"][-1]
    assert int(last.timestamp() * 1000) == NOW - NOW % HOUR - HOUR


@pytest.mark.parametrize(("category", "symbol"), list(UNIFIED))
def test_ccxt_agrees(exchange: FakeExchange, ccxt: Any, category: str, symbol: str) -> None:
    theirs = ccxt.fetch_ohlcv(UNIFIED[category, symbol], "1h", since=START, limit=141)
    volume = 6 if category == "inverse" else 5  # ccxt gives the turnover of inverse contracts as volume
    assert theirs == [[*row[:5], row[volume]] for row in ours(exchange, category, symbol)]


def test_ccxt_agrees_on_mark_prices_and_funding(exchange: FakeExchange, ccxt: Any) -> None:
    theirs = ccxt.fetch_ohlcv("BTC/USDT:USDT", "1h", since=START, limit=20, params={"price": "mark"})
    records = ccxt.fetch_funding_rate_history("BTC/USDT:USDT", START, 200, {"until": END})
    with BybitClient(exchange.url, wall_clock=lambda: NOW / 1e3) as client:
        frame = client.mark_klines("linear", "BTCUSDT", "1h", START, START + 19 * HOUR).frame
        assert [row[4] for row in theirs] == frame["close"].to_list()
        rates = client.funding_history("linear", "BTCUSDT", START, END)["rate"].to_list()
    assert [record["fundingRate"] for record in records] == rates


def test_ccxt_takes_a_web_page_for_no_candles_and_we_do_not(exchange: FakeExchange, ccxt: Any) -> None:
    """The silent loss that the checks of our client are for."""
    ccxt.load_markets()
    with FakeExchange() as broken:
        broken.fail(Fault(body=HTML), times=ALWAYS)
        ccxt.urls["api"] = dict.fromkeys(ccxt.urls["api"], broken.url)
        assert ccxt.fetch_ohlcv("BTC/USDT:USDT", "1h", since=START, limit=10) == []
        ccxt.urls["api"] = dict.fromkeys(ccxt.urls["api"], exchange.url)
        with (
            BybitClient(broken.url, wall_clock=lambda: NOW / 1e3, sleep=lambda seconds: None) as client,
            pytest.raises(BybitError, match="not JSON"),
        ):
            client.klines("linear", "BTCUSDT", "1h", START, END)
