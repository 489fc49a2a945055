"""A hallucinated market: candles that cannot contradict themselves, judged, and fit for every stage."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipelines import candles, hallucination, layout, params, stage
from pipelines.evaluation import stylised
from pipelines.market.bars import Bars
from pipelines.sources.files import read_file
from pipelines.sources.simulator import simulate_market
from pipelines.stages import features, fetch, hallucinate, train, validate

SETTINGS = """
preset: smoke
data: {{symbols: [ONE, TWO], end: "2022-03-15", {source}}}
split: {{folds: 1, seeds: 1, train_bars: 900, test_bars: 200}}
hallucinate: {{stress: 1.5}}
evaluation: {{replications: 100}}
agents: {{world_model: {{regime_stay: 4.0}}}}
"""


def market(bars: int = 3000, seed: int = 3) -> pl.DataFrame:
    start = datetime(2022, 1, 1, tzinfo=UTC)
    return simulate_market(symbols=["SIM"], interval="1h", start=start, bars=bars, seed=seed).candles


def as_bars(frame: pl.DataFrame) -> Bars:
    return Bars(*(frame[name].to_numpy()[:, None] for name in Bars._fields[:5]))


def test_every_candle_is_possible_and_follows_the_returns_that_were_dreamed() -> None:
    source = as_bars(market())
    shapes = hallucination.take_apart(source, 0)
    draw = np.random.default_rng(0)
    returns = 0.004 * draw.standard_t(3, 4000) * np.exp(np.repeat(draw.normal(0, 0.7, 40), 100))
    made = hallucination.put_together(shapes, returns, 100.0, seed=1)
    top, bottom = np.maximum(made.open, made.close), np.minimum(made.open, made.close)
    assert (made.high >= top).all()
    assert (made.low <= bottom).all()
    assert (made.low > 0).all()
    np.testing.assert_allclose(np.diff(np.log(made.close[:, 0])), returns[1:], atol=1e-5)
    again = hallucination.put_together(shapes, returns, 100.0, seed=1)
    other = hallucination.put_together(shapes, returns, 100.0, seed=2)
    np.testing.assert_array_equal(made.high, again.high)
    assert (made.high != other.high).any()
    # Volume and range follow the volatility of the moment, as they do in the source.
    width = hallucination.volatility(returns)
    wild, calm = width > np.quantile(width, 0.8), width < np.quantile(width, 0.2)
    reach = np.log(made.high / made.low)[:, 0]
    assert np.median(reach[wild]) > 2 * np.median(reach[calm])
    assert made.volume is not None
    assert np.median(made.volume[wild]) > 1.5 * np.median(made.volume[calm])


def test_a_market_taken_apart_finds_itself_again() -> None:
    source = as_bars(market())
    shapes = hallucination.take_apart(source, 0)
    rows = hallucination.similar(shapes, shapes.volatility, shapes.move, seed=0)
    assert np.corrcoef(shapes.move[rows], shapes.move)[0, 1] > 0.99
    assert np.corrcoef(shapes.volatility[rows], shapes.volatility)[0, 1] > 0.99
    back = hallucination.put_together(
        shapes, np.diff(np.log(source.close[:, 0])), float(source.close[0, 0]), seed=0
    )
    np.testing.assert_allclose(back.close[:, 0], source.close[1:, 0], rtol=1e-6)


def test_the_facts_of_known_markets() -> None:
    draw = np.random.default_rng(0)
    white = 0.01 * draw.standard_normal((20_000, 2))
    found = dict(zip(stylised.FACTS, stylised.facts(white), strict=True))
    assert found["deviation"] == pytest.approx(0.01, rel=0.02)
    assert abs(found["kurtosis"]) < 0.1
    assert abs(found["autocorrelation_r_1"]) < 0.02
    assert abs(found["autocorrelation_abs_r_1"]) < 0.02
    level, shock = np.zeros(20_001), draw.standard_normal(20_000)
    for t in range(20_000):  # falls are followed by unrest
        level[t + 1] = 0.95 * level[t] - 0.2 * shock[t]
    unrest = (np.exp(level[:-1]) * 0.01 * shock)[:, None]
    tails = dict(zip(stylised.FACTS, stylised.facts(unrest), strict=True))
    assert tails["kurtosis"] > 2
    assert tails["autocorrelation_abs_r_24"] > 0.05
    assert tails["leverage_effect"] < -0.1
    assert stylised._drawdowns(np.log([1.0, 0.5, 2.0, 1.0, *[1.0] * 236])).item() == pytest.approx(0.5)


def test_the_judge_knows_strangers_and_cannot_tell_twins() -> None:
    draw = np.random.default_rng(1)
    twins = [stylised.stretches(draw.standard_normal(9600)) for _ in range(2)]
    stranger = stylised.stretches(draw.standard_t(3, 9600))
    options = {"replications": 200, "level": 0.95, "seed": 0}
    same = stylised.judged([twins[0]], [twins[1]], **options)
    assert same.low < 0.5 < same.high
    assert stylised.judged([twins[0]], [stranger], **options).low > 0.7
    assert stylised.area(np.array([0.0, 1.0]), np.array([1.0, 2.0])) == pytest.approx(0.875)


@pytest.mark.serial
def test_every_stage_runs_on_a_dream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    presets = Path(__file__).parents[3] / "presets/smoke.yaml"
    monkeypatch.chdir(tmp_path)
    Path("presets").mkdir()
    Path("presets/smoke.yaml").write_text(presets.read_text("utf-8"), "utf-8")
    for room in ("models", "pipelines"):  # whose content is part of an agent's identity
        Path(room).mkdir()
    Path("uv.lock").touch()
    Path("params.yaml").write_text(SETTINGS.format(source="source: simulator"))
    for body in (fetch.fetch, features.features):
        body()
    assert stage.run("hallucinate", hallucinate.hallucinate) == 2
    assert "needs a trained world_model" in capsys.readouterr().err
    job = train.experiment.jobs("world_model", params.load())[0]
    train.train_into(tmp_path / "trained", job)
    target = layout.ARTIFACTS / "world_model" / layout.job(0, 0)
    target.parent.mkdir(parents=True)
    (tmp_path / "trained/agent").rename(target)
    hallucinate.hallucinate()
    first = {path: path.read_bytes() for path in sorted(layout.DREAM.rglob("*.parquet"))}
    figures = layout.HALLUCINATED.read_bytes()
    hallucinate.hallucinate()
    assert first == {path: path.read_bytes() for path in sorted(layout.DREAM.rglob("*.parquet"))}
    assert figures == layout.HALLUCINATED.read_bytes()
    report = json.loads(figures)
    assert set(report) == {"facts", "auc", "stress"}
    assert set(report["facts"]) == set(stylised.FACTS)
    assert all(len(side) == 3 for fact in report["facts"].values() for side in fact.values())
    low, high = report["auc"][1:]
    assert 0 <= low <= report["auc"][0] <= high <= 1
    assert candles.scan(layout.DREAM).collect().height == 2 * params.load().data.bars

    dreamed = read_file(layout.DREAM / "ONE", symbol="ONE", interval="1h").frame
    Path("params.yaml").write_text(
        SETTINGS.format(source='source: files, files: {path: "data/dream/{symbol}"}')
    )
    for body in (fetch.fetch, validate.validate, features.features):
        body()
    raw = candles.scan(layout.CANDLES).filter(pl.col("symbol") == "ONE").collect()
    assert raw.equals(dreamed.cast(dict(raw.schema)))
    settings = params.load()
    data = train.experiment.dataset(settings)
    assert data.symbols == ("ONE", "TWO")
    env = train.experiment.training_env(
        data,
        train.experiment.folds(settings, len(data.times))[0],
        train.experiment.fit_scaler(data, train.experiment.folds(settings, len(data.times))[0], settings),
        settings,
    )
    assert env.reset(seed=0)[0].shape == (16, env.single_observation_space.shape[0])
