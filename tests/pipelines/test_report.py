"""The page: honest in words, whole without a network, safe against what comes from outside."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipelines import comparison, experiment, layout, whatif
from pipelines.backtest import run_rule, table
from pipelines.dataset import Dataset
from pipelines.market.account import Bars
from pipelines.market.costs import Costs
from pipelines.market.env import random_walk
from pipelines.params import Params
from pipelines.report.page import Inputs, headline, render
from tests.pipelines.browser import console, dom, needs_chromium

HOSTILE = "</script><img src=x onerror=alert(1)>"
BARS = 1300
LEARNED = ["clever", "bear"]
PARAMS = Params.model_validate(
    {
        "split": {"folds": 2, "seeds": 2, "train_bars": 100, "test_bars": 550},
        "evaluation": {"replications": 200},
    }
)
COSTS = Costs(no_trade_band=0.01)


def results(drift: float = 0.0, seed: int = 0) -> tuple[dict[str, pl.DataFrame], Dataset]:
    """Two learned agents (one of them short all the time), two rules, two folds and two seeds."""
    market = random_walk(BARS, seed=seed)
    trend = np.exp(drift * np.arange(BARS))[:, None]
    data = Dataset(
        symbols=("SIM",),
        names=("nothing",),
        interval="1h",
        times=np.datetime64("2024-01-01", "ms") + np.arange(BARS) * np.timedelta64(1, "h"),
        bars=Bars(*(column * trend for column in market[:4]), volume=market.volume),
        features=np.zeros((BARS, 1, 1)),
        segment=np.zeros(BARS, np.int32),
        filled=np.zeros((BARS, 1), bool),
    )
    noise = np.random.default_rng(seed).choice([-1.0, 0.0, 1.0], (BARS, 1))
    weights = {"clever": noise, "bear": -np.ones_like(noise), "flat": 0 * noise, "buy_and_hold": noise**0}
    frames = {}
    for name, weight in weights.items():
        tables = [
            table(name, fold.index, path, data.times[fold.test.rows], data.symbols,
                  run_rule(lambda closes, w=weight, p=path: np.roll(w, p)[: len(closes)], data, fold.test,
                           COSTS, initial_equity=1e6))
            for fold in experiment.folds(PARAMS, BARS)
            for path in range(2 if name in LEARNED else 1)
        ]  # fmt: skip
        frames[name] = pl.concat(tables)
    return frames, data


def inputs(**changes: Any) -> Inputs:
    frames, data = results()
    records = comparison.records(frames, PARAMS)
    found = comparison.compare(records, frames, learned=LEARNED, trials=2, params=PARAMS)
    found |= {"trials": {"configurations": 2, "runs": 8, "problems": [], "tips": []}, "data": "0123456789ab"}
    runs = {name: {"median": {}, "runs": {"fold-0-seed-0": {"total_return": 0.1}}} for name in LEARNED}
    evidence = comparison.standing(records, PARAMS)
    evidence["what_if"] = {name: whatif.what_if(frames[name], data, PARAMS) for name in LEARNED}
    made = Inputs(
        params=PARAMS,
        comparison=found,
        data={"expectations": {"passed": 20, "failed": 0}, "symbols": {"SIM": {"rows": 1200, "gaps": 1}}},
        features={"features": 13, "warm_up_bars": 168, "leaking": []},
        evidence=evidence,
        figures={"learned": runs},
        curves=comparison.equity_curves(records, frames, learned=LEARNED, params=PARAMS),
        exposures=comparison.exposure_shares(frames),
        costs=comparison.cost_shares(frames, 1e6),
        training=pl.DataFrame({"job": ["a", "b"], "step": [1, 1], "metric": ["clever: loss"] * 2,
                               "value": [1.0, 2.0]}),
        prices=pl.DataFrame({"symbol": ["SIM"] * 2, "time": ["2024-01-01T00:00", "2024-01-01T01:00"],
                             "close": [1.0, 2.0], "relative": [1.0, 2.0]}),
        gaps=pl.DataFrame({"symbol": ["SIM"], "after": ["2024-01-01T00:00"], "before": ["2024-01-01T05:00"],
                           "missing_bars": [4]}),
        code="f" * 64,
    )  # fmt: skip
    return made._replace(**changes)


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A folder in which the venue has no terms of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("work"))
        layout.MARKET_TERMS.parent.mkdir(parents=True)
        layout.MARKET_TERMS.write_text('{"min_notional": 0.0}')
        yield


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "index.html"
    path.write_text(render(inputs()), "utf-8")
    return path


def test_the_page_is_one_file_that_needs_no_network(page: Path) -> None:
    text = page.read_text("utf-8")
    assert len(text.encode()) < 5_000_000
    head = text[: text.index('<script type="application/json"')]
    assert not re.findall(r"(?:src|href)=[\"'](?!#|data:|data_docs/)", head)
    assert "@import" not in head


def test_the_same_inputs_give_the_same_bytes(page: Path) -> None:
    assert render(inputs()) == page.read_text("utf-8")


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
    made = inputs()
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
    made = inputs()
    text = render(made._replace(features={**made.features, "leaking": ["tomorrow"]}))
    assert 'class="banner"' in text
    assert "These results know the future." in text
    assert "tomorrow" in text
    assert 'role="alert"' not in render(made)


def test_a_ledger_that_was_tampered_with_is_a_banner() -> None:
    made = inputs()
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
    frames, _ = results(drift=0.002)
    records = comparison.records(frames, PARAMS)
    agents = comparison.compare(records, frames, learned=LEARNED, trials=2, params=PARAMS)["agents"]
    assert agents["bear"]["verdict"] == "worse than doing nothing"
    assert agents["clever"]["verdict"] not in {"better than zero", "better than buy and hold"}
    assert agents["flat"]["sharpe"] is None
    assert agents["flat"]["total_return"] == 0.0
    assert agents["buy_and_hold"]["total_return_low"] > 0


def test_the_recorded_decisions_replay_to_the_recorded_result() -> None:
    frames, data = results()
    record = comparison.records(frames, PARAMS)["clever"]
    replay = whatif.replays(frames["clever"], data, PARAMS)
    np.testing.assert_allclose(replay(COSTS, 1e6, 0), record.returns.mean(axis=1), rtol=0, atol=1e-12)
    found = whatif.what_if(frames["clever"], data, PARAMS)
    earned = [outcome["total_return"] for outcome in found["costs"]]
    assert earned == sorted(earned, reverse=True)  # dearer never earns more
    assert found["delay"][0]["total_return"] == found["costs"][2]["total_return"]
    sizes = [outcome["total_return"] for outcome in found["size"]]
    assert sizes == sorted(sizes, reverse=True)
