"""Recorded trades: one data set a fold, from its training window alone, and training that only reads them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import models
from pipelines import behaviour, dataset, experiment, layout, params
from pipelines.errors import UserError
from pipelines.experiment import Job
from pipelines.features import compute, resolve, to_grid
from pipelines.market.env import TradingVectorEnv
from pipelines.sources.simulator import simulate_market
from pipelines.stages import behaviour as stage

PARAMS = """
features: {names: [log_return, momentum(12)]}
split: {folds: 2, seeds: 1, train_bars: 300, test_bars: 60, purge_bars: 4, embargo_bars: 4}
account: {episode_bars: 40}
evaluation: {baselines: {sma_fast: 3, sma_slow: 9, reversion_window: 8, random_hold: 5}}
behaviour: {steps: 700}
agents: {dqn: {}, trajectory: {}}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("presets").mkdir()
    Path("presets/default.yaml").write_text("{}\n", "utf-8")
    Path("params.yaml").write_text(PARAMS, "utf-8")
    market = simulate_market(
        symbols=["SIM"], interval="1h", start=datetime(2022, 1, 1, tzinfo=UTC), bars=460, seed=3
    )
    grid = to_grid(market.candles, "1h", max_gap_bars=3)
    names = resolve(["log_return", "momentum(12)"])
    dataset.write_table(compute(grid.lazy(), names).collect(), layout.FEATURES)
    layout.MARKET_TERMS.write_text(json.dumps({"min_notional": 0.0}), "utf-8")
    return tmp_path


def change(old: str, new: str) -> None:
    text = Path("params.yaml").read_text("utf-8")
    assert text.count(old) == 1
    Path("params.yaml").write_text(text.replace(old, new), "utf-8")


def tables() -> list[pl.DataFrame]:
    return [behaviour.read(layout.behaviour("trajectory", fold)) for fold in (0, 1)]


def test_each_fold_is_recorded_on_its_own_training_window(project: Path) -> None:
    stage.record()
    settings = params.load()
    data = experiment.dataset(settings)
    for fold, table in zip(experiment.folds(settings, len(data.times)), tables(), strict=True):
        stamps = table["open_time"].dt.replace_time_zone(None).to_numpy()
        first, last = data.times[fold.train.start], data.times[fold.train.stop - 1]
        assert (stamps >= first).all()
        assert (stamps < last).all()
        assert stamps.max() > last - np.timedelta64(40, "h")  # and uses all of it
        assert len(table) >= 700
        window = data.window(fold.train.start, fold.train.stop)
        scaled = window.observations(experiment.fit_scaler(data, fold, settings))
        rows = np.searchsorted(window.times, stamps)
        np.testing.assert_array_equal(table.select("observation_0", "observation_1").to_numpy(), scaled[rows])
    assert not tables()[0].equals(tables()[1])
    found = json.loads(layout.BEHAVIOUR_METRICS.read_text("utf-8"))
    whole = found["policies"]["all"]
    assert found["folds"] == 2
    assert whole["episodes"] == sum(table["episode"].n_unique() for table in tables())
    named = [each for name, each in found["policies"].items() if name != "all"]
    assert sum(each["steps"] for each in named) == whole["steps"] == sum(map(len, tables()))
    assert whole["q05"] < whole["q25"] < whole["median"] < whole["q75"] < whole["q95"]
    total = sum(float(table["reward"].sum()) for table in tables())
    assert whole["mean"] * whole["episodes"] == pytest.approx(total, rel=1e-4)


def test_twice_the_same_bytes_and_other_families_get_a_note_that_never_changes(project: Path) -> None:
    stage.record()
    before = {path: path.read_bytes() for path in Path("data/behaviour").rglob("*") if path.is_file()}
    assert {path.parts[2] for path in before} == set(models.FAMILIES)
    stage.record()
    assert before == {path: path.read_bytes() for path in before}
    change("steps: 700", "steps: 900")
    stage.record()
    changed = {path.parts[2] for path, old in before.items() if path.read_bytes() != old}
    assert changed == {"trajectory"}


def _job(family: str = "trajectory") -> tuple[Job, TradingVectorEnv]:
    settings = params.load()
    job = Job(family, 1, 0, settings)
    data = experiment.dataset(settings)
    fold = experiment.folds(settings, len(data.times))[1]
    env = experiment.training_env(data, fold, experiment.fit_scaler(data, fold, settings), settings)
    return job, stage.learn_from(job, data, fold, env)


def test_the_training_of_a_fold_reads_its_records_and_no_other_family_does(project: Path) -> None:
    stage.record()
    job, env = _job()
    record = env.recorded
    np.testing.assert_array_equal(record.reward, tables()[1]["reward"].to_numpy())
    assert not hasattr(_job("dqn")[1], "recorded")
    before = experiment.fingerprint(job)
    change("steps: 700", "steps: 900")
    stage.record()
    assert experiment.fingerprint(job) != before
    about = layout.behaviour("trajectory", 1) / behaviour.ABOUT
    about.write_text(about.read_text("utf-8").replace("SIM", "OTHER"), "utf-8")
    again = _job()[1].recorded  # recorded for the symbols at hand
    assert len(again.reward) >= 900


def test_your_own_data_set_is_cut_to_the_window_and_checked(project: Path) -> None:
    stage.record()
    whole = tables()[1]
    own = whole.drop("policy", "truncated").with_columns(reward=pl.col("reward") + 0.001)
    behaviour.write(own, Path("mine"))
    change("steps: 700", "path: mine")
    stage.record()
    first, second = tables()
    assert second.equals(own)
    settings = params.load()
    data = experiment.dataset(settings)
    fold = experiment.folds(settings, len(data.times))[0]
    assert 0 < len(first) < len(second)
    limit = data.times[fold.train.stop - 1]
    assert (first["open_time"].dt.replace_time_zone(None).to_numpy() < limit).all()
    assert list(json.loads(layout.BEHAVIOUR_METRICS.read_text("utf-8"))["policies"]) == ["all"]
    for number, table in enumerate((own.head(0), own.drop("observation_3"))):
        behaviour.write(table, Path("mine") / "fold-0")
        message = ("no episode lies inside the training window of fold 0", "recorded observation has shape")
        with pytest.raises(UserError, match=message[number]):
            stage.record()


def test_a_stage_trains_from_the_records_without_a_step(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.stages.train import train_into

    nano = json.dumps(models.configuration.resolved(models.config_class("trajectory").nano()))
    change("trajectory: {}", f"trajectory: {nano}")
    stage.record()

    def refuse(*_: object) -> None:
        raise AssertionError("an offline training stepped its environment")

    monkeypatch.setattr(TradingVectorEnv, "step", refuse)
    train_into(project / "out", Job("trajectory", 0, 0, params.load()))
    description = json.loads((project / "out/agent/agent.json").read_text("utf-8"))
    assert description["counters"]["env_steps"] == 256
