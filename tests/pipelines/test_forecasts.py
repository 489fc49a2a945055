"""Forecasts are asked for as the contract says, and held against the real account and the real walk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from models.agent import Decision, State
from pipelines import backtest, forecasts
from pipelines.evaluation import forecasts as quality
from pipelines.market.account import simulate
from pipelines.market.costs import Costs
from pipelines.market.env import TradingVectorEnv, random_walk
from pipelines.settings import Forecast

COSTS = Costs(no_trade_band=0.01)
GRID = (-1.0, 0.0, 1.0)
ASKED = Forecast(horizon=4, samples=32, probes=50)
BARS = 801


class Prophet:
    """Draws N(0, sigma²) a bar for what it holds; plays short and long in turn, by its own count."""

    def __init__(self, sigma: float = 0.005, optimism: float = 0.0, high: Any = 2) -> None:
        self.sigma, self.optimism, self.high = sigma, optimism, high
        self.asked: list[tuple[Any, ...]] = []

    def initial_state(self, batch_size: int) -> State:
        return {"count": np.zeros(batch_size, np.int64), "rest": (np.zeros((batch_size, 2)),)}

    def act(self, observation: np.ndarray, state: Any, *, seed: int) -> Decision:
        count = state["count"] + 1
        state["rest"][0][:] = count[:, None]  # an agent may write into its state: a probe keeps a copy
        return Decision(2 * (count // 24 % 2), {"count": count, "rest": state["rest"]}, {})

    def forecast(
        self, observation: np.ndarray, state: Any, actions: np.ndarray | None,
        *, horizon: int, samples: int, seed: int,
    ) -> np.ndarray:  # fmt: skip
        self.asked.append((observation, state, actions))
        rng = np.random.default_rng(seed)
        drawn = self.sigma * rng.standard_normal((len(observation), samples, horizon))
        return drawn if actions is not None else 0.0 * drawn + self.optimism

    def explain(self, observation: np.ndarray, state: Any, *, seed: int) -> dict[str, dict[str, np.ndarray]]:
        return {"plan": {"rewards": np.array([0.5, 0.25]), "actions": np.array([2, 0])}}

    def save(self, directory: Path) -> None:
        raise NotImplementedError


def market(symbols: int = 1, **options: Any) -> TradingVectorEnv:
    bars = random_walk(BARS, symbols, seed=3)
    rows = np.arange(BARS, dtype=np.float32)[:, None]
    return TradingVectorEnv(bars, rows, COSTS, episode_bars=None, start="first", **options)


def foretold(agent: Any, env: TradingVectorEnv) -> tuple[backtest.Walk, pl.DataFrame]:
    walk = backtest.run_agent(agent, env, seed=0, probe_at=forecasts.probe_steps(BARS - 1, ASKED))
    past = random_walk(2000, env.market.symbols, seed=11)
    table = forecasts.foretell(agent, env, walk, past=past, asked=ASKED, seed=5)
    return walk, forecasts.labelled(table, "prophet", 1, 0)


def test_probes_are_spread_and_no_two_share_a_bar() -> None:
    assert forecasts.probe_steps(20, Forecast(horizon=5, probes=300)) == [0, 5, 10, 15]
    assert forecasts.probe_steps(100, Forecast(horizon=5, probes=4)) == [0, 25, 50, 75]
    assert forecasts.probe_steps(4, Forecast(horizon=5)) == []


def test_the_agent_is_asked_what_it_was_asked_in_the_walk() -> None:
    agent = Prophet()
    _, table = foretold(agent, market(grid=GRID))
    (seen, state, held), (_, _, none) = agent.asked
    steps = np.arange(0, BARS - 1, 16)
    np.testing.assert_array_equal(seen[:, 0], steps)
    np.testing.assert_array_equal(state["count"], steps)
    np.testing.assert_array_equal(state["rest"][0], np.repeat(steps[:, None], 2, axis=1))
    np.testing.assert_array_equal(held, np.full((50, 4), 2))
    assert none is None
    assert sorted(table["probe"].unique()) == steps.tolist()
    assert dict(table.schema) == quality.SCHEMA
    exposure = seen[:, 1]
    assert exposure.max() > 0.9
    assert exposure.min() < -0.9


def test_what_came_is_the_account_and_not_a_shortcut() -> None:
    env = market(grid=GRID)
    walk, table = foretold(Prophet(), env)
    bars = table.filter(pl.col("scope") == "bar").sort("probe", "step")
    own = bars.filter(pl.col("kind") == "own")
    log = np.log1p(walk.ledger.returns)
    for step in (0, 160, 784):
        came = own.filter(pl.col("probe") == step)["realised"].to_numpy()
        np.testing.assert_allclose(came, log[step : step + 4], atol=1e-7)
    # The same decisions up to the probe and long from there on, through the account from the start.
    for step in (0, 16, 160, 784):
        weights = np.concatenate([walk.targets, walk.targets[:1]])
        weights[step:] = 1.0
        truth = simulate(random_walk(BARS, seed=3), weights, COSTS)
        held = bars.filter((pl.col("kind") == "held") & (pl.col("probe") == step))["realised"].to_numpy()
        np.testing.assert_allclose(held, np.log1p(truth.returns[step + 1 : step + 5]), atol=1e-7)


def test_known_forecasters_get_the_marks_they_deserve() -> None:
    """The walk's noise is N(0, 0.005²) a bar: that is the calibrated forecast of a held exposure."""
    found = {}
    for name, agent in {"right": Prophet(), "sure": Prophet(0.001), "glad": Prophet(optimism=0.002)}.items():
        _, table = foretold(agent, market(grid=GRID))
        found[name] = quality.figures(table, replications=300, level=0.95, seed=0)
    right, sure, glad = found["right"], found["sure"], found["glad"]
    assert right is not None
    assert sure is not None
    assert glad is not None
    assert abs(np.mean(right["held"]["coverage"]["80"]) - 0.8) < 0.1
    assert np.mean(sure["held"]["coverage"]["80"]) < 0.35
    assert right["held"]["gain_over_gaussian_high"] > -0.1
    assert sure["held"]["gain_over_gaussian_high"] < -1.0
    assert glad["own"]["dream_gap_low"] > 0.001
    assert glad["own"]["dreamed"] == pytest.approx(0.002, rel=1e-5)


@pytest.mark.parametrize(
    ("symbols", "options", "shape", "value"),
    [
        (2, {"grid": GRID}, (50, 4, 2), 2),
        (2, {"actions": "box"}, (50, 4, 2), 1.0),
        (1, {"actions": "box"}, (50, 4, 1), 1.0),
    ],
)
def test_actions_come_in_the_spaces_own_encoding(
    symbols: int, options: dict[str, Any], shape: tuple[int, ...], value: float
) -> None:
    class Still(Prophet):
        def act(self, observation: np.ndarray, state: Any, *, seed: int) -> Decision:
            zero = (
                np.ones((1, symbols), np.int64) if "grid" in options else np.zeros((1, symbols), np.float32)
            )
            return Decision(zero, state, {})

    agent = Still()
    env = market(symbols, **options)
    foretold(agent, env)
    actions = agent.asked[0][2]
    assert actions.shape == shape
    assert (actions == value).all()
    assert env.action_space.dtype == actions.dtype
    np.testing.assert_allclose(env.exposures(actions[:, 0]), 1.0)


def test_actions_are_the_inverse_of_exposures() -> None:
    env = market(2, grid=GRID)
    asked = np.array([[-1.0, 1.0], [0.2, -0.9]])
    np.testing.assert_array_equal(env.exposures(env.actions_for(asked)), [[-1.0, 1.0], [0.0, -1.0]])
    box = TradingVectorEnv(random_walk(50), None, Costs(leverage=3.0), actions="box", episode_bars=9)
    np.testing.assert_allclose(box.exposures(box.actions_for([[1.5], [-9.0]])), [[1.5], [-3.0]], rtol=1e-6)
    with pytest.raises(ValueError, match="finite"):
        box.actions_for([[np.nan]])


def test_a_ruin_stays_in_the_record() -> None:
    bars = random_walk(60)
    for column in bars[:4]:
        column[30:] *= 0.2
    env = TradingVectorEnv(
        bars, np.zeros((60, 1)), Costs(leverage=3.0), grid=(-3.0, 0.0, 3.0), episode_bars=None, start="first"
    )

    class Bold(Prophet):
        def act(self, observation: np.ndarray, state: Any, *, seed: int) -> Decision:
            return Decision(np.array([2]), state, {})

    agent = Bold()
    walk = backtest.run_agent(agent, env, seed=0, probe_at=range(0, 56, 4))
    assert [probe.step for probe in walk.probes] == list(range(0, 30, 4))  # none after the ruin
    table = forecasts.foretell(agent, env, walk, past=bars, asked=ASKED, seed=0)
    worst = table.group_by("kind").agg(pl.col("realised").min())
    assert worst["realised"].to_list() == [-10.0, -10.0]


def test_an_agent_that_foretells_nothing_has_an_empty_table() -> None:
    class Mute:
        def __init__(self) -> None:
            self.act, self.initial_state = Prophet().act, Prophet().initial_state

    walk, table = foretold(Mute(), market(grid=GRID))
    assert table.is_empty()
    assert dict(table.schema) == quality.SCHEMA
    assert forecasts.reasons(Mute(), walk.probes[0], seed=0) == {}  # type: ignore[arg-type]
    told = forecasts.reasons(Prophet(), walk.probes[0], seed=0)
    assert told == {"plan": {"rewards": [0.5, 0.25], "actions": [2, 0]}}
