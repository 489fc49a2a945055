"""The fetch stage against a real server on loopback: exactly the window, once, and said what it did."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from pipelines import candles, layout
from pipelines.settings import Params
from pipelines.sources.gather import gather, preview
from pipelines.stages import fetch
from tests.fakes.exchange import KLINE, FakeExchange
from tests.fakes.faults import Fault
from tests.fakes.truth import truth

DAY = 86_400_000
START, END = 1_704_067_200_000, 1_704_067_200_000 + 20 * DAY  # 2024-01-01 to 2024-01-21


@pytest.fixture
def exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeExchange]:
    monkeypatch.chdir(tmp_path)
    with FakeExchange() as server:
        yield server


def parameters(exchange: FakeExchange, **data: object) -> Params:
    asked = {
        "source": "bybit",
        "symbols": ["BTCUSDT", "SOLUSDT"],
        "interval": "1h",
        "start": "2024-01-01",
        "end": "2024-01-21",
        "bybit": {"base_url": exchange.url, "requests_per_second": 100},
        **data,
    }
    return Params.model_validate({"data": asked})


def test_the_window_is_stored_and_returned_exactly(exchange: FakeExchange) -> None:
    found = gather(parameters(exchange))
    for symbol in ("BTCUSDT", "SOLUSDT"):
        mine = found.candles.filter(pl.col("symbol") == symbol).drop("symbol")
        assert mine.equals(truth("linear", symbol, "60", START, END - 1))
    assert found.truth is None
    assert found.min_notional > 0
    stamps = found.funding.filter(pl.col("symbol") == "BTCUSDT")["open_time"]
    assert len(stamps) == 20 * 3  # every eight hours
    assert found.funding.filter(pl.col("symbol") == "SOLUSDT").height > 20 * 3  # hourly in that year


def test_what_is_stored_is_never_asked_for_again(exchange: FakeExchange) -> None:
    settings = parameters(exchange)
    first = gather(settings)
    asked = len(exchange.asked(KLINE))
    assert asked > 0
    again = gather(settings)
    assert len(exchange.asked(KLINE)) == asked
    assert again.candles.equals(first.candles)
    assert again.funding.equals(first.funding)
    assert again.note == "all of it was in the store"


def test_one_more_day_fetches_one_day(exchange: FakeExchange) -> None:
    gather(parameters(exchange))
    later = parameters(exchange, end="2024-01-22")
    assert preview(later).splitlines()[0] == "would fetch 48 bars:"
    assert gather(later).candles.height == 2 * 21 * 24
    assert preview(later) == "nothing to fetch: the store has the whole window"


def test_a_spot_market_has_no_funding(exchange: FakeExchange) -> None:
    found = gather(
        parameters(
            exchange,
            symbols=["BTCUSDT"],
            bybit={"base_url": exchange.url, "category": "spot", "requests_per_second": 100},
        )
    )
    assert found.funding.is_empty()
    assert found.candles.height == 20 * 24


def test_the_stage_writes_the_window_and_says_an_error_in_one_line(
    exchange: FakeExchange, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("presets").mkdir()
    Path("presets/default.yaml").write_text("{}\n")
    Path("params.yaml").write_text(
        "data:\n  source: bybit\n  symbols: [BTCUSDT]\n  start: '2024-01-01'\n  end: '2024-01-21'\n"
        f"  bybit: {{base_url: '{exchange.url}', requests_per_second: 100}}\nagents: {{dqn: {{}}}}\n"
    )
    exchange.fail(Fault(code=10001, message="Not supported symbols"), path=KLINE)
    from pipelines import stage

    assert stage.run("fetch", fetch.fetch) == 2
    complaint = capsys.readouterr().err.splitlines()[-1]
    assert complaint.startswith("error: bad_request: Not supported symbols")
    assert not layout.RAW.exists()
    assert stage.run("fetch", fetch.fetch) == 0
    assert "480 candles of 1 symbol(s)" in capsys.readouterr().out
    assert candles.scan(layout.CANDLES).collect().height == 480
    assert json.loads(layout.TERMS.read_text())["min_notional"] > 0
    assert [path.name for path in layout.TRUTH.iterdir()] == ["source.txt"]
