"""The page: honest in words, whole without a network, safe against what comes from outside."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipelines import comparison
from pipelines.backtest import table
from pipelines.market.account import Bars, Ledger, simulate
from pipelines.market.costs import Costs
from pipelines.market.env import random_walk
from pipelines.params import Params
from pipelines.report.page import Inputs, headline, render
from tests.pipelines.browser import console, dom, needs_chromium

HOSTILE = "</script><img src=x onerror=alert(1)>"
BARS = 600


def results(drift: float = 0.0, seed: int = 0) -> pl.DataFrame:
    """Two learned agents (one of them short all the time), the rules, two folds and two seeds."""
    tables = []
    for fold in range(2):
        market = random_walk(BARS, seed=seed + fold)
        trend = np.exp(drift * np.arange(BARS))[:, None]
        bars = Bars(*(column * trend for column in market[:4]))
        hours = fold * BARS + np.arange(BARS - 1)
        times = np.datetime64("2024-01-01", "ms") + hours * np.timedelta64(1, "h")
        noise = np.random.default_rng(seed + fold).choice([-1.0, 0.0, 1.0], (BARS, 1))
        weights = {"clever": noise, "bear": -np.ones_like(noise), "flat": 0 * noise, "buy_and_hold": noise**0}
        for name, weight in weights.items():
            seeds = 2 if name in ("clever", "bear") else 1
            for path in range(seeds):
                ledger = simulate(bars, np.roll(weight, path), Costs(no_trade_band=0.01))
                cut = Ledger(*(column[1:] if np.ndim(column) else column for column in ledger))
                tables.append(table(name, fold, path, times, ["SIM"], cut))
    return pl.concat(tables)


def inputs(frame: pl.DataFrame, learned: list[str], **changes: Any) -> Inputs:
    params = Params()
    found = comparison.compare(frame, learned=learned, trials=2, params=params)
    found |= {"trials": {"configurations": 2, "runs": 8, "problems": [], "tips": []}, "data": "0123456789ab"}
    runs = {name: {"median": {}, "runs": {"fold-0-seed-0": {"total_return": 0.1}}} for name in learned}
    made = Inputs(
        params=params,
        comparison=found,
        data={"expectations": {"passed": 20, "failed": 0}, "symbols": {"SIM": {"rows": 1200, "gaps": 1}}},
        features={"features": 13, "warm_up_bars": 168, "leaking": []},
        figures={"learned": runs},
        curves=comparison.equity_curves(frame, 200),
        exposures=comparison.exposure_shares(frame),
        costs=comparison.cost_shares(frame, 1e6),
        training=pl.DataFrame({"job": ["a", "b"], "step": [1, 1], "metric": ["clever: loss"] * 2,
                               "value": [1.0, 2.0]}),
        prices=pl.DataFrame({"symbol": ["SIM"] * 2, "time": ["2024-01-01T00:00", "2024-01-01T01:00"],
                             "close": [1.0, 2.0], "relative": [1.0, 2.0]}),
        gaps=pl.DataFrame({"symbol": ["SIM"], "after": ["2024-01-01T00:00"], "before": ["2024-01-01T05:00"],
                           "missing_bars": [4]}),
        code="f" * 64,
    )  # fmt: skip
    return made._replace(**changes)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "index.html"
    path.write_text(render(inputs(results(), ["clever", "bear"])), "utf-8")
    return path


def test_the_page_is_one_file_that_needs_no_network(page: Path) -> None:
    text = page.read_text("utf-8")
    assert len(text.encode()) < 5_000_000
    head = text[: text.index('<script type="application/json"')]
    assert not re.findall(r"(?:src|href)=[\"'](?!#|data:|data_docs/)", head)
    assert "@import" not in head


def test_the_same_inputs_give_the_same_bytes(page: Path) -> None:
    assert render(inputs(results(), ["clever", "bear"])) == page.read_text("utf-8")


@needs_chromium
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, False), (1280, True)])
def test_a_browser_has_nothing_to_complain_about(page: Path, width: int, dark: bool) -> None:
    assert console(page, width, dark=dark) == []


@needs_chromium
def test_every_chart_is_drawn_and_described(page: Path) -> None:
    text = dom(page, 1280)
    assert 'data-drawn="yes"' in text
    drawn = re.findall(r'<div class="chart[^>]*id="chart-(\w+)"[^>]*aria-label="([^"]+)"[^>]*>(.)', text)
    assert {name for name, _, _ in drawn} == {
        "equity", "drawdown", "exposure", "costs", "positions", "price", "training",
    }  # fmt: skip
    assert text.count("<svg") >= 7
    assert all(len(label) > 20 for _, label, _ in drawn)


def test_what_comes_from_outside_is_escaped() -> None:
    made = inputs(results(), ["clever", "bear"])
    hostile = made.params.model_copy(
        update={
            "report": made.params.report.model_copy(update={"title": HOSTILE}),
            "data": made.params.data.model_copy(update={"symbols": [HOSTILE]}),
        }
    )
    prices = made.prices.with_columns(symbol=pl.lit(HOSTILE))
    data = {"symbols": {HOSTILE: {"rows": 1}}, "warnings": [HOSTILE]}
    text = render(made._replace(params=hostile, prices=prices, data=data))
    assert "<img src=x" not in text.replace(r"<\/script><img src=x", "")
    assert "&lt;/script&gt;&lt;img src=x" in text


def test_a_forced_leak_gate_is_a_red_banner() -> None:
    made = inputs(results(), ["clever", "bear"])
    text = render(made._replace(features={**made.features, "leaking": ["tomorrow"]}))
    assert 'class="banner"' in text
    assert "These results know the future." in text
    assert "tomorrow" in text
    assert 'role="alert"' not in render(made)


def test_a_ledger_that_was_tampered_with_is_a_banner() -> None:
    made = inputs(results(), ["clever", "bear"])
    trials = {**made.comparison["trials"], "problems": ["line 3: was edited"]}
    text = render(made._replace(comparison={**made.comparison, "trials": trials}))
    assert "line 3: was edited" in text


@pytest.mark.parametrize(
    ("verdicts", "sentence"),
    [
        (["not distinguishable from zero"] * 2, "No agent can be told apart from doing nothing"),
        (["worse than doing nothing"] * 2, "Doing nothing would have been better than every agent"),
        (["worse than doing nothing", "not distinguishable from zero"], "No agent can be told apart"),
        (
            ["better than zero", "ruined"],
            "a0 earned more than nothing, but not provably",
        ),
        (["better than buy and hold"] * 2, "a0 and a1 did better than buy and hold"),
        ([], "No agent was trained"),
    ],
)
def test_the_headline_says_what_the_verdicts_say(verdicts: list[str], sentence: str) -> None:
    agents = {f"a{n}": {"kind": "learned", "verdict": verdict} for n, verdict in enumerate(verdicts)}
    assert sentence in headline(agents | {"flat": {"kind": "baseline"}})


def test_noise_is_not_called_skill_and_losing_is_called_losing() -> None:
    """In a rising market the agent that is always short is worse than doing nothing, and the page says so."""
    found = comparison.compare(results(drift=0.002), learned=["clever", "bear"], trials=2, params=Params())
    assert found["agents"]["bear"]["verdict"] == "worse than doing nothing"
    assert found["agents"]["clever"]["verdict"] not in {"better than zero", "better than buy and hold"}
    assert found["agents"]["flat"]["sharpe"] is None
    assert found["agents"]["flat"]["total_return"] == 0.0
