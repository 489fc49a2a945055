"""The page: honest in words, whole without a network, safe against what comes from outside."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipelines import comparison, experiment, forecasts, labels, layout, series, whatif
from pipelines.backtest import run_rule, table
from pipelines.dataset import Dataset
from pipelines.evaluation import forecasts as quality
from pipelines.market.account import Bars
from pipelines.market.costs import Costs
from pipelines.market.env import random_walk
from pipelines.report import pictures, words
from pipelines.report.behaviour import QUANTILES
from pipelines.report.page import Inputs, render
from pipelines.report.words import headline
from pipelines.settings import Params
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


def forecast_table(name: str, seed: int, samples: int) -> pl.DataFrame:
    """Forecasts of 40 probes in each of two folds, of an agent that promises a little too much."""
    rng = np.random.default_rng(seed)
    parts = []
    for fold in range(2):
        came = rng.normal(0.0, 0.005, (40, 5))
        drawn = rng.normal(0.002, 0.005, (40, samples, 5))
        against = quality.references(came, 0 * came, came[:, 0], rng.normal(0.0, 0.005, 500))
        whole = pl.concat(
            [
                quality.scored(drawn, came, kind="held", seed=seed, against=against),
                quality.scored(drawn, came, kind="own", seed=seed),
            ]
        )
        parts.append(forecasts.labelled(whole.rename({"forecast": "probe"}), name, fold, 0))
    return pl.concat(parts)


REASONS: dict[str, Any] = {
    "fold": 1, "seed": 0, "time": "2024-02-01T00:00", "observation": ["nothing", HOSTILE, "drawdown"],
    "pictures": {
        "tree": {"parent": [-1, 0, 0, 1], "action": [-1, 4, 2, 0], "visits": [9, 6, 2, 3],
                 "value": [0.0, 1e-3, 0.0, 1e-4], "prior": [1.0, 0.6, 0.4, 0.2],
                 "reward": [0.0, 1e-4, 0.0, 0.0]},
        "beams": {"rewards": [[1e-3, 0.0], [0.0, 2e-3]], "actions": [[4, 4], [0, 2]], "score": [1.0, 2.0],
                  "log_probability": [-1.0, -2.0]},
        "attention": {"weight": [0.2, 0.7, 0.1]},
        "plan": {"actions": [4, 2], "rewards": [1e-3, 0.0], "spread": [1e-3, 1e-3]},
        "unheard of": {"x": [1.0]},
    },
}  # fmt: skip
NIGHTS = {
    "count": 1,
    "starts": {name: {"newcomers": 0, "promoted": 0, "mean_return": None, "mean_lead": None}
               for name in ("scratch", "warm")},
    "nights": [{"night": "2024-01-01", "state": "refused", "start": "scratch", "promoted": None,
                "comparison": None, "reason": f"refused: {HOSTILE}"}],
}  # fmt: skip
ROOT = Path(__file__).parents[2]
DREAMS = {
    "facts": {"kurtosis": {"source": [5.0, 4.0, 6.0], "dream": [3.0, 2.5, 3.5]}},
    "auc": [0.9, 0.8, 0.95],
    "stress": 1.0,
}


def inputs(**changes: Any) -> Inputs:
    frames, data = results()
    said = np.random.default_rng(0).integers(0, 2, len(frames["clever"])).astype(float)
    frames["clever"] = frames["clever"].with_columns(info_regime=pl.Series(said))
    records = comparison.records(frames, PARAMS)
    found = comparison.compare(records, frames, learned=LEARNED, trials=2, params=PARAMS)
    found |= {"trials": {"configurations": 2, "runs": 8, "problems": [], "tips": []}, "data": "0123456789ab"}
    runs: dict[str, Any] = {
        name: {"median": {}, "runs": {"fold-0-seed-0": {"total_return": 0.1}}} for name in LEARNED
    }
    tables = {"clever": forecast_table("clever", 0, 32), "bear": forecast_table("bear", 1, 1)}
    for name, foretold in tables.items():
        runs[name]["model"] = quality.figures(foretold, replications=200, level=0.95, seed=0)
    models = {name: runs[name]["model"] for name in LEARNED}
    evidence = comparison.standing(records, PARAMS)
    evidence["what_if"] = {name: whatif.what_if(frames[name], data, PARAMS) for name in LEARNED}
    truth = (np.arange(BARS) // 400 % 2).astype(np.float64)
    regimes = labels.labels_of("clever", frames["clever"], data, truth, points=50)
    assert regimes is not None
    evidence["regimes"] = {
        "clever": {"rand": regimes.rand, "labels": [trait._asdict() for trait in regimes.traits]}
    }
    made = Inputs(
        params=PARAMS,
        comparison=found,
        data={"expectations": {"passed": 20, "failed": 0}, "symbols": {"SIM": {"rows": 1200, "gaps": 1}}},
        features={"features": 13, "warm_up_bars": 168, "leaking": []},
        evidence=evidence,
        figures={"learned": runs},
        reasons={"clever": REASONS, "bear": {}},
        series={
            "equity": series.equity_curves(records, frames, learned=LEARNED, params=PARAMS),
            "exposures": series.exposure_shares(frames),
            "costs": series.cost_shares(frames, 1e6),
            "profile": series.performance_profile(records),
            "coverage": series.coverage(models),
            "transform": series.transforms(models),
            "planned": series.planned(models),
            "fan": series.fans(tables),
            "regimes": regimes.spans,
            "training": pl.DataFrame(
                {"agent": ["clever"] * 2, "job": ["a", "b"], "step": [1, 1], "metric": ["loss"] * 2,
                 "value": [1.0, 2.0]}
            ),
            "prices": pl.DataFrame(
                {"symbol": ["SIM"] * 3, "close": [1.0, 2.0, 3.0], "relative": [1.0, 2.0, 3.0],
                 "time": ["2024-01-01T00:00", "2024-01-28T01:00", "2024-02-20T00:00"]}
            ),
            "gaps": pl.DataFrame(
                {"symbol": ["SIM"], "after": ["2024-01-01T00:00"], "before": ["2024-01-01T05:00"],
                 "missing_bars": [4]}
            ),
        },
        code="f" * 64,
        hallucinated=DREAMS,
        nights=NIGHTS,
        behaviour={"policies": {"momentum": {"episodes": 9, **dict.fromkeys(QUANTILES, 0.0123)}}},
        execution=json.loads((ROOT / layout.EXECUTION_PLANNER).read_text("utf-8")),
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
    common = {
        "equity",
        "drawdown",
        "exposure",
        "costs",
        "profile",
        "price",
        "execution_holdings",
        "execution_frontier",
    }
    each = {"positions", "waterfall", "fan", "planned"}
    ranges, told = {"coverage", "transform", "regimes", "training"}, {"tree", "beams", "attention", "plan"}
    clever = {f"{name}_clever" for name in each | ranges | told}
    assert {name for name, _, _ in drawn} == common | clever | {f"{name}_bear" for name in each}
    assert {first for _, _, first in drawn} == {"<"}  # something stands in every place
    assert text.count("<svg") >= len(drawn)
    assert all(len(label) > 20 for _, label, _ in drawn)


def test_what_comes_from_outside_is_escaped() -> None:
    made = inputs()
    hostile = made.params.model_copy(
        update={
            "report": made.params.report.model_copy(update={"title": HOSTILE}),
            "data": made.params.data.model_copy(update={"symbols": [HOSTILE]}),
        }
    )
    prices = made.series["prices"].with_columns(symbol=pl.lit(HOSTILE))
    data = {"symbols": {HOSTILE: {"rows": 1}}, "warnings": [HOSTILE]}
    text = render(made._replace(params=hostile, series={**made.series, "prices": prices}, data=data))
    assert "<img src=x" not in text.replace(r"<\/script><img src=x", "")
    assert "&lt;/script&gt;&lt;img src=x" in text


def test_sections_without_figures_are_left_out_and_with_them_can_be_reached() -> None:
    whole = render(inputs())
    left_out = render(inputs(nights=None, behaviour=None, execution=None))
    assert render(inputs(nights={"count": 0, "starts": {}, "nights": []})).count("<h2>Nights</h2>") == 0
    for heading, anchor in (
        ("<h2>Nights</h2>", "nights"),
        ("<h2>Selling a block, where the best way is known</h2>", "execution"),
        ("<h3>Recorded trades</h3>", None),
    ):
        assert whole.count(heading) == 1
        assert heading not in left_out
        if anchor is not None:
            assert whole.count(f'href="#{anchor}"') == whole.count(f'<section id="{anchor}">') == 1
            assert f'href="#{anchor}"' not in left_out
    assert '<td class="figure">+1.23%</td>' in whole
    assert '"execution_frontier":[{' in whole
    assert '"execution_frontier"' not in left_out


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


def test_the_page_says_in_words_what_a_model_is_worth() -> None:
    text = " ".join(render(inputs()).split())
    assert "Its 80 % range for the next 5 bars held the truth" in text
    assert "For its own decisions it promised +2" in text
    assert "It foretells one number and no range" in text  # of the one with a single path
    assert "Agreement with the simulator&#39;s true regimes" in text
    assert "A classifier can easily tell invented stretches from real ones" in text
    assert '<td class="figure">no</td>' in text[text.index("kurtosis") :][:400]


@pytest.mark.parametrize(
    ("covered", "word"), [(0.8, "about right"), (0.5, "too sure of itself"), (0.95, "too timid")]
)
def test_coverage_is_judged_beside_what_it_claims(covered: float, word: str) -> None:
    model = {
        "horizon": 3, "probes": 900, "held": {"coverage": {"80": [covered] * 3}},
        "own": {"dreamed": 3.1e-4, "earned": -2e-5, "dream_gap_low": 1e-4, "dream_gap_high": 5e-4},
    }  # fmt: skip
    first, promise = words.model(model)
    assert first == f"Its 80 % range for the next 3 bars held the truth {covered:.0%} of the time: {word}."
    assert promise.startswith("For its own decisions it promised +3.1 bp a bar and earned -0.2: optimistic")


def test_a_large_tree_is_cut_to_its_most_visited_part() -> None:
    rng = np.random.default_rng(0)
    parent, visits = [-1], [10_000]
    for node in range(1, 400):
        parent.append(int(rng.integers(0, node)))
        visits.append(int(visits[parent[node]] * rng.uniform(0.2, 0.9)))
    zeros = [0.0] * 400
    found = {"parent": parent, "action": [0] * 400, "visits": visits, "value": zeros, "prior": zeros,
             "reward": zeros}  # fmt: skip
    chart = pictures.tree("a", found, pictures.exposure_words([-1.0, 1.0]))
    rows = chart.spec["data"]["values"]
    assert len(rows) == pictures.MOST_NODES
    assert "60 most visited of 400" in chart.caption
    left_out = sorted(visits)[: 400 - pictures.MOST_NODES]
    assert min(row["visits"] for row in rows) >= max(left_out)
    spots = [(row["x"], row["y"]) for row in rows]
    assert len(set(spots)) == len(spots)  # no position hides another
    assert sum(row["label"] == "now" for row in rows) == 1


def test_actions_are_said_as_exposures() -> None:
    assert pictures.exposure_words([-1.0, 0.0, 1.0])([0, 2]) == "-1 +1"
    assert pictures.exposure_words(None)([0.25]) == "+0.25"


def test_regimes_are_thinned_to_stretches_and_named() -> None:
    frames, data = results()
    rows = frames["clever"].height
    frame = frames["clever"].with_columns(info_regime=pl.Series(np.arange(rows) // 100 % 2 * 1.0))
    found = labels.labels_of("clever", frame, data, None, points=11)
    assert found is not None
    assert found.rand is None
    assert len(found.spans) <= 11
    assert set(found.spans["regime"]) <= {trait.name for trait in found.traits}
    assert found.spans["start"].to_list()[1:] == found.spans["end"].to_list()[:-1]
    assert labels.labels_of("bear", frames["bear"], data, None, points=11) is None


def test_the_first_screen_answers_what_a_stranger_asks() -> None:
    made = inputs()
    models = {name: made.figures["learned"][name]["model"] for name in LEARNED}
    asked = dict(words.answers(made.params, made.comparison, models, leaking=False))
    assert len(asked) == 5
    agents = made.comparison["agents"]
    best = max(LEARNED, key=lambda name: agents[name]["total_return"])
    trust = asked["Which agent should I trust?"]
    assert trust.startswith(f"None of them. Of the learned ones {best} ended highest, at")
    assert "2 configuration(s) were ever tried" in asked["Could it have been luck?"]
    assert asked["Is this a real market, or real money?"].startswith("Neither. The market is simulated")
    certain = asked["Do the agents know what they do not know?"]
    assert re.match(r"Their 80 % ranges held the truth: clever \d\d%\. ", certain)
    assert certain.endswith("clever and bear promised provably more than came.")
    agents[best]["verdict"] = "better than zero"
    trusted = words.answers(made.params, made.comparison, models, leaking=False)[0][1]
    assert trusted.startswith(f"{best}. Of")
    assert words.answers(made.params, made.comparison, models, leaking=True)[0][1].startswith(
        "None: the results know"
    )
