"""The recorder: mixed policies, no foresight, the same bytes, and a format that says when it is broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
from gymnasium.vector import AutoresetMode

from models.agent import Decision
from pipelines import behaviour
from pipelines.errors import UserError
from pipelines.market.account import Bars
from pipelines.market.costs import Costs
from pipelines.market.env import TradingVectorEnv, random_walk
from pipelines.settings import Baselines

SETTINGS = Baselines(sma_fast=3, sma_slow=9, reversion_window=8, random_hold=5)


def market(bars: Bars | None = None, **options: Any) -> tuple[TradingVectorEnv, np.ndarray]:
    bars = random_walk(400, seed=3) if bars is None else bars
    features = 100.0 * np.log(bars.close / bars.open)
    given = {"num_envs": 6, "episode_bars": 30, **options}
    return TradingVectorEnv(bars, features, Costs(), **given), np.asarray(bars.close)


def recorded(steps: int = 1500, seed: int = 0, **options: Any) -> pl.DataFrame:
    env, closes = market(**options)
    return behaviour.record(env, closes, SETTINGS, steps, seed=seed)


def test_every_transition_is_one_of_the_environment() -> None:
    """Replaying the recorded actions of the first episodes earns the recorded rewards."""
    env, closes = market()
    table = behaviour.record(env, closes, SETTINGS, 400, seed=5)
    again, _ = market()
    observation, _ = again.reset(seed=5)
    assert again.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    first = table.filter(pl.col("episode") < 6).sort("step", "episode")
    for (_,), rows in first.group_by("step", maintain_order=True):
        np.testing.assert_array_equal(rows.select("^observation_.*$").to_numpy(), observation)
        observation, reward, _, truncated, _ = again.step(rows["action_0"].to_numpy())
        np.testing.assert_array_equal(rows["reward"].to_numpy(), reward)
        np.testing.assert_array_equal(rows["truncated"].to_numpy(), truncated)
    lengths = table.group_by("episode").len()["len"]
    assert lengths.max() == 30
    assert len(table) >= 400
    assert (table.group_by("episode").agg(pl.col("step").sort())["step"].list.first() == 0).all()


def test_the_mixture_has_good_and_bad_and_noisy_ones() -> None:
    table = recorded(6000)
    names = set(table["policy"].unique())
    for name in ("flat", "buy_and_hold", "sma_cross", "mean_reversion", "momentum", "random"):
        assert {name, f"{name} with 0.1 noise", f"{name} with 0.4 noise"} <= names
    assert set(table["action_0"].unique()) == {0, 1, 2, 3, 4}
    assert table.filter(pl.col("policy") == "flat")["action_0"].unique().to_list() == [2]
    share = table.filter(pl.col("policy") == "flat with 0.4 noise")["action_0"].ne(2).mean()
    assert isinstance(share, float)
    assert 0.15 < share < 0.5  # two fifths of the stretches, four fifths of those not flat
    figures = behaviour.returns([table])
    named = {name: each for name, each in figures.items() if name != "all"}
    assert sum(each["episodes"] for each in named.values()) == table["episode"].n_unique()
    assert all(each["q05"] <= each["median"] <= each["q95"] for each in figures.values())
    assert figures["flat"]["mean"] == figures["flat"]["a_step"] == 0.0
    assert min(each["mean"] for each in named.values()) < 0.0  # if everybody wins, somebody saw ahead
    twice = behaviour.returns([table, table])
    assert twice["all"]["episodes"] == 2 * figures["all"]["episodes"]
    assert twice["all"]["mean"] == pytest.approx(figures["all"]["mean"])


def test_no_policy_sees_ahead() -> None:
    bars = random_walk(400, seed=3)
    cut = 200
    changed = Bars(*(None if column is None else column.copy() for column in bars))
    for column in changed[:4]:
        column[cut:] = column[cut:][::-1] * 1.7
    closes, others = np.asarray(bars.close), np.asarray(changed.close)
    rows = np.arange(cut)
    pairs = zip(
        behaviour.behaviours(closes, SETTINGS, grid=(-1.0, 0.0, 1.0), seed=1),
        behaviour.behaviours(others, SETTINGS, grid=(-1.0, 0.0, 1.0), seed=1),
        strict=True,
    )
    moved = 0
    for one, two in pairs:
        np.testing.assert_array_equal(one.wish(rows), two.wish(rows), err_msg=one.name)
        moved += int((one.wish(np.arange(cut, 400)) != two.wish(np.arange(cut, 400))).any())
    assert moved >= 6  # the rules do look at prices


class Shy(NamedTuple):
    """Goes long in the first bars of an episode; counts with a state of its own."""

    limit: int = 3

    def initial_state(self, batch_size: int) -> Any:
        return {"steps": np.zeros(batch_size, np.int64)}

    def act(self, observation: np.ndarray, state: Any, *, seed: int) -> Decision:
        action = np.where(state["steps"] < self.limit, 4, 2)
        return Decision(action, {"steps": state["steps"] + 1}, {})

    def save(self, directory: Path) -> None:
        raise NotImplementedError("nothing to save")


def test_trained_agents_can_take_part_and_begin_every_episode_anew() -> None:
    env, closes = market()
    table = behaviour.record(env, closes, SETTINGS, 6000, seed=2, agents={"shy": Shy()})
    shy = table.filter(pl.col("policy") == "shy")
    assert shy["episode"].n_unique() > 3
    assert (shy["action_0"] == pl.Series(np.where(shy["step"].to_numpy() < 3, 4, 2))).all()


def test_the_same_seed_writes_the_same_bytes_and_reads_back(tmp_path: Path) -> None:
    table = recorded()
    for name, each in (("a", table), ("b", recorded()), ("c", recorded(seed=1))):
        behaviour.write(each, tmp_path / name)
    same = [(tmp_path / name / behaviour.TABLE).read_bytes() for name in "abc"]
    assert same[0] == same[1] != same[2]
    assert behaviour.read(tmp_path / "a").equals(table)
    about = json.loads((tmp_path / "a" / behaviour.ABOUT).read_text())
    assert about["version"] == 1
    assert about["transitions"] == len(table)


def test_the_environment_brings_the_data_along(tmp_path: Path) -> None:
    env, _ = market()
    table = recorded()
    record = behaviour.attach(env, table).recorded
    assert record.observation.shape == (len(table), *env.single_observation_space.shape)
    np.testing.assert_array_equal(record.action, table["action_0"].to_numpy())
    assert all(env.single_action_space.contains(action) for action in record.action[:20])
    boxed = recorded(actions="box")
    other, _ = market(actions="box")
    continuous = behaviour.to_record(boxed, other)
    assert continuous.action.shape == (len(boxed), 1)
    assert continuous.action.dtype == np.float32


def test_broken_data_sets_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no behaviour data set"):
        behaviour.read(tmp_path)
    behaviour.write(recorded(200), tmp_path / "set")
    about_file, table_file = tmp_path / "set" / behaviour.ABOUT, tmp_path / "set" / behaviour.TABLE
    about, blob = json.loads(about_file.read_text()), table_file.read_bytes()
    table_file.write_bytes(blob[:-7])
    with pytest.raises(UserError, match=r"is not the table that behaviour\.json was written with"):
        behaviour.read(tmp_path / "set")
    table_file.write_bytes(blob)
    about_file.write_text(json.dumps({**about, "version": 9}))
    with pytest.raises(UserError, match="version = 9: this release reads version 1"):
        behaviour.read(tmp_path / "set")
    behaviour.write(recorded(200).drop("reward"), tmp_path / "set")
    with pytest.raises(UserError, match="lacks the columns reward"):
        behaviour.read(tmp_path / "set")
