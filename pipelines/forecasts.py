"""Asks a trained agent what it expects at probes of its walk, and holds that against what came.

Two questions a probe. "You hold the highest exposure, whatever comes": what the model knows of the market.
The answer is held against the real account, run over the following bars from what it held at the probe,
order and costs included. "You do what you would do": what the agent promises itself. That is held against
what its own walk earned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.agent import Agent, State
from pipelines.backtest import Probe, Walk, log_returns
from pipelines.evaluation import forecasts
from pipelines.market import account
from pipelines.market.account import AccountState, Bars
from pipelines.market.env import RUIN_REWARD, TradingVectorEnv
from pipelines.settings import Forecast

Floats = NDArray[np.float64]


class Held(NamedTuple):
    """The account at E probes, carried on with one exposure: rewards [E, H], and the costs in them [E, H]."""

    rewards: Floats
    paid: Floats


def probe_steps(bars: int, asked: Forecast) -> list[int]:
    """Decisions to probe in a test window: evenly spread, so that no two forecasts share a bar."""
    spacing = max(asked.horizon, -(-bars // asked.probes))
    return list(range(0, bars - asked.horizon + 1, spacing))


def foretell(
    agent: Agent, env: TradingVectorEnv, walk: Walk, *, past: Bars, asked: Forecast, seed: int
) -> pl.DataFrame:
    """The scored forecasts of one walk, in the columns of `forecasts.SCHEMA` but for whose they are.

    Empty for an agent that foretells nothing. Consumes `seed`.

    Args:
        env: the one the walk was made in.
        past: bars of the training window, from which the forecasts that need no model take their moments.
    """
    ask = getattr(agent, "forecast", None)
    probes = [probe for probe in walk.probes if probe.step + asked.horizon <= len(walk.ledger.equity)]
    if ask is None or not probes:
        return forecasts.empty()
    observations = np.concatenate([probe.observation for probe in probes])  # [E, D]
    state = stacked([probe.state for probe in probes])
    highest = env.highest()  # [S]
    one = env.actions_for(np.tile(highest, (len(probes), 1)))  # [E] or [E, S]
    actions = np.repeat(one[:, np.newaxis], asked.horizon, axis=1)  # [E, H, *action]
    common = {"horizon": asked.horizon, "samples": asked.samples, "seed": seed}

    truth = hold(env, probes, highest, asked.horizon)
    weights = highest * min(1.0, env.costs.leverage / max(np.abs(highest).sum(), 1e-12))
    closes = env.market.tape.close[0]  # [T, S]
    steps = np.array([probe.step for probe in probes])
    before = np.maximum(steps - 1, 0)
    # The first probe of a window has no bar before it: persistence then says that nothing moves.
    last = _growth(closes[steps] / closes[before], weights)  # [E]
    training = _growth(past.close[1:] / past.close[:-1], weights)
    against = forecasts.references(truth.rewards, truth.paid, last, training)

    earned = np.maximum(log_returns(walk.ledger), RUIN_REWARD)  # [T]
    own = np.stack([earned[step : step + asked.horizon] for step in steps])  # [E, H]
    table = pl.concat(
        [
            forecasts.scored(
                ask(observations, state, actions, **common),
                truth.rewards, kind=forecasts.HELD, seed=seed, against=against,
            ),
            forecasts.scored(
                ask(observations, state, None, **common), own, kind=forecasts.OWN, seed=seed + 2
            ),
        ],
        how="diagonal",
    )  # fmt: skip
    return table.with_columns(probe=pl.Series(steps).gather(table["forecast"])).drop("forecast")


def hold(env: TradingVectorEnv, probes: Sequence[Probe], weights: Floats, horizon: int) -> Held:
    """Every probe's account carried on for `horizon` bars with the target `weights` [S] at each of them."""
    state = AccountState(
        *(np.concatenate(column) for column in zip(*(p.account for p in probes), strict=True))
    )
    rows = np.array([probe.step for probe in probes])
    targets = np.tile(weights, (len(probes), 1))  # [E, S]
    rewards, paid = [], []
    for ahead in range(1, horizon + 1):
        before = np.where(state.equity > 0.0, state.equity, np.inf)
        ledger = account.step(state, env.market, rows + ahead, targets)
        rewards.append(np.maximum(log_returns(ledger), RUIN_REWARD))
        paid.append(-(ledger.fees + ledger.spread + ledger.slippage + ledger.impact) / before)
    return Held(np.stack(rewards, axis=1), np.stack(paid, axis=1))


def _growth(ratios: Floats, weights: Floats) -> Floats:
    """Log returns [N] of a portfolio of `weights` [S] from the prices' `ratios` [N, S], before costs."""
    logs: Floats = np.log(np.maximum(1.0 + (ratios - 1.0) @ weights, np.exp(RUIN_REWARD)))
    return logs


def labelled(table: pl.DataFrame, agent: str, fold: int, seed: int) -> pl.DataFrame:
    """The table of one walk with its agent, fold and seed, in the columns and types of the schema."""
    named = table.with_columns(agent=pl.lit(agent), fold=pl.lit(fold), seed=pl.lit(seed))
    return named.select(pl.col(name).cast(kind) for name, kind in forecasts.SCHEMA.items())


def reasons(agent: Agent, probe: Probe, *, seed: int) -> dict[str, dict[str, Any]]:
    """How the agent came to one decision: pictures by kind, as plain lists; none if it cannot say."""
    explain = getattr(agent, "explain", None)
    if explain is None:
        return {}
    told = explain(probe.observation, probe.state, seed=seed)
    return {
        kind: {name: np.asarray(array).tolist() for name, array in arrays.items()}
        for kind, arrays in told.items()
    }


def stacked(states: Sequence[State]) -> State:
    """Nested states of batches of one as the state of one batch."""
    first = states[0]
    if isinstance(first, dict):
        return {key: stacked([state[key] for state in states]) for key in first}  # type: ignore[call-overload]
    if isinstance(first, tuple):
        return tuple(stacked(list(parts)) for parts in zip(*states, strict=True))
    return np.concatenate([np.asarray(state) for state in states])
