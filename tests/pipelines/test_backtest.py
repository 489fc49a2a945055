"""Backtests: agents and rules go through the same account, see only the past, and start in cash."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from models.agent import Decision, State
from pipelines import backtest
from pipelines.dataset import Dataset
from pipelines.market.account import Bars, simulate
from pipelines.market.baselines import buy_and_hold
from pipelines.market.costs import Costs
from pipelines.market.env import TradingVectorEnv, random_walk
from pipelines.splits import Window

COSTS = Costs()
GRID = (-1.0, 0.0, 1.0)


class Scripted:
    """Plays a fixed list of grid indices and remembers what it saw."""

    def __init__(self, script: np.ndarray) -> None:
        self.script = script
        self.seen: list[np.ndarray] = []

    def initial_state(self, batch_size: int) -> State:
        return np.zeros(batch_size, np.int64)

    def act(self, observation: np.ndarray, state: State, *, seed: int) -> Decision:
        self.seen.append(observation[0].copy())
        step = np.asarray(state)
        return Decision(
            self.script[step], step + 1, {"value": np.array([float(step[0])]), "odd": np.zeros(2)}
        )

    def save(self, directory: Path) -> None:
        raise NotImplementedError


def dataset(bars: int = 200, symbols: int = 1, seed: int = 0) -> Dataset:
    market = random_walk(bars, symbols, seed=seed)
    times = np.datetime64("2024-01-01", "ms") + np.arange(bars) * np.timedelta64(3_600_000, "ms")
    return Dataset(
        symbols=tuple("AB"[:symbols]),
        names=("row",),
        interval="1h",
        times=times,
        bars=Bars(*market),
        features=np.tile(np.arange(bars, dtype=float)[:, None, None], (1, symbols, 1)),
        segment=np.zeros(bars, np.int32),
        filled=np.zeros((bars, symbols), bool),
    )


def test_an_agent_and_the_same_weights_end_with_the_same_money() -> None:
    data = dataset()
    script = np.random.default_rng(1).integers(0, 3, len(data.times))
    agent = Scripted(script)
    env = TradingVectorEnv(
        data.bars, data.features[:, :, 0], COSTS, grid=GRID, episode_bars=None, start="first"
    )
    ledger, targets, said, probes = backtest.run_agent(agent, env, seed=0)
    expected = simulate(data.bars, np.asarray(GRID)[script][:, None], COSTS)
    np.testing.assert_allclose(ledger.equity, expected.equity[1:], rtol=1e-12)
    np.testing.assert_allclose(ledger.fees, expected.fees[1:], rtol=1e-12, atol=1e-9)
    assert [seen[0] for seen in agent.seen] == list(range(len(data.times) - 1))
    np.testing.assert_array_equal(said["value"], np.arange(len(data.times) - 1))
    assert "odd" not in said  # not one number a path
    assert probes == ()
    np.testing.assert_array_equal(targets[:, 0], np.asarray(GRID)[script][:-1])


def test_a_rule_starts_in_cash_at_its_window_and_sees_the_whole_past() -> None:
    data = dataset()
    test = Window(120, 180)
    seen: list[int] = []

    def rule(closes: np.ndarray) -> np.ndarray:
        seen.append(len(closes))
        return buy_and_hold(closes)

    ledger = backtest.run_rule(rule, data, test, COSTS, initial_equity=1e6).ledger
    assert seen == [180]
    assert len(ledger.equity) == test.bars
    # Bought at the open of the first test bar with everything there is.
    paid = data.bars.open[120, 0] * (1 + 1e-4) * (1 + 5.5e-4)
    np.testing.assert_allclose(ledger.equity[-1], 1e6 / paid * data.bars.close[179, 0], rtol=1e-9)


def test_the_table_has_a_row_a_bar_and_adds_up() -> None:
    data = dataset(symbols=2)
    test = Window(100, 150)
    walk = backtest.run_rule(buy_and_hold, data, test, COSTS, initial_equity=1e6)
    frame = backtest.table("hold", 3, 1, data.times[test.rows], data.symbols, walk)
    assert frame.height == 50
    assert frame["open_time"].dtype == pl.Datetime("ms", "UTC")
    assert frame["open_time"][0].isoformat() == "2024-01-05T04:00:00+00:00"
    assert {"exposure_A", "exposure_B"} <= set(frame.columns)
    money = sum(frame[item].sum() for item in backtest.MONEY)
    assert frame["equity"][-1] - 1e6 == pytest.approx(money, rel=1e-9)
    assert not frame["ruined"].any()


def test_a_ruined_path_says_so() -> None:
    data = dataset(60)
    bars = Bars(*(column.copy() for column in data.bars[:4]))
    for column in (bars.open, bars.high, bars.low, bars.close):
        column[30:] *= 0.2  # the market opens 80 % lower
    walk = backtest.run_rule(
        lambda closes: np.full_like(closes, 3.0), data._replace(bars=bars), Window(10, 50),
        Costs(leverage=3.0), initial_equity=1e6,
    )  # fmt: skip
    frame = backtest.table("bold", 0, 0, data.times[10:50], data.symbols, walk)
    assert frame["ruined"].to_list() == [False] * 20 + [True] * 20
    assert np.isfinite(frame["log_return"].to_numpy()).all()


def test_an_agent_that_is_ruined_leaves_a_path_of_full_length() -> None:
    data = dataset(60)
    bars = Bars(*(column.copy() for column in data.bars[:4]))
    for column in bars[:4]:
        column[30:] *= 0.2
    env = TradingVectorEnv(
        bars,
        data.features[:, :, 0],
        Costs(leverage=3.0),
        grid=(-3.0, 0.0, 3.0),
        episode_bars=None,
        start="first",
    )
    walk = backtest.run_agent(Scripted(np.full(60, 2)), env, seed=0)
    assert len(walk.ledger.equity) == len(walk.targets) == 59
    assert walk.ledger.ruined.tolist() == [False] * 29 + [True] * 30
    assert walk.ledger.equity[29:].max() == 0.0
    assert len(walk.said["value"]) == 59
