"""Backtests: an agent walks once through its test window, or a rule's weights go through the account.

Both give the same table, one row a bar: the ledger of the account, the exposures at the close, and what
the agent said about its decision. Every fold starts again with the initial equity.

A walk can keep probes: what the agent knew and what the account held before some of its decisions, so that
its forecasts can be asked for, and held against what came, after the walk (`pipelines.forecasts`).
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.agent import Agent, State
from pipelines.dataset import Dataset
from pipelines.market.account import AccountState, Ledger, simulate
from pipelines.market.baselines import Rule
from pipelines.market.costs import Costs
from pipelines.market.env import TradingVectorEnv
from pipelines.splits import Window

MONEY = ("price", "fees", "spread", "slippage", "impact", "funding", "liquidation")


class Probe(NamedTuple):
    """One moment of a walk, just before a decision.

    step: decisions made before; the reward of this one is in row `step` of the walk.
    observation: [1, D]; state: the agent's, of a batch of one; account: of one account.
    """

    step: int
    observation: NDArray[np.float32]
    state: State
    account: AccountState


class Walk(NamedTuple):
    """One path through a test window.

    ledger: [T], exposure [T, S]. targets: [T, S], filled at the open of the same row's bar.
    said: of `Decision.info`, every array with one number a path, [T].
    """

    ledger: Ledger
    targets: NDArray[np.float64]
    said: dict[str, NDArray[Any]]
    probes: tuple[Probe, ...] = ()


def run_agent(agent: Agent, env: TradingVectorEnv, *, seed: int, probe_at: Collection[int] = ()) -> Walk:
    """Steps a one-path environment to its end with the agent's own state carried from bar to bar.

    A ruined account trades no more, and its path goes on with nothing to the end of the window; of the
    steps in `probe_at`, those after a ruin are left out.
    """
    observation, _ = env.reset(seed=seed)
    state = agent.initial_state(1)
    ledgers: list[Ledger] = []
    targets: list[NDArray[np.float64]] = []
    said: dict[str, list[float]] = {}
    probes: list[Probe] = []
    wanted = frozenset(probe_at)
    over = False
    while not over:
        if len(ledgers) in wanted:
            kept = copy.deepcopy((state, env.state))  # an agent may write into its state
            probes.append(Probe(len(ledgers), observation.copy(), *kept))
        decision = agent.act(observation, state, seed=seed + len(ledgers))
        state = decision.state
        targets.append(env.exposures(decision.action)[0])
        observation, _, terminated, truncated, info = env.step(decision.action)
        ledgers.append(Ledger(*(info[name][0] for name in Ledger._fields)))
        for name, values in decision.info.items():
            if np.shape(values) == (1,):
                said.setdefault(name, []).append(float(values[0]))
        over = bool(terminated[0] or truncated[0])
    whole = {name: np.asarray(values) for name, values in said.items() if len(values) == len(ledgers)}
    after = int(env.ends[0]) - len(ledgers)  # bars left after a ruin
    zeros: list[Any] = [np.zeros_like(value) for value in ledgers[-1]]
    nothing = Ledger(*zeros)._replace(ruined=np.asarray(True))
    ledgers += [nothing] * after
    targets += [np.zeros_like(targets[-1])] * after
    stacked = Ledger(*(np.stack(column) for column in zip(*ledgers, strict=True)))
    whole = {name: np.pad(values, (0, after)) for name, values in whole.items()}
    return Walk(stacked, np.stack(targets), whole, tuple(probes))


def log_returns(ledger: Ledger) -> NDArray[np.float64]:
    """[T] of the equity; the logarithm of nothing is replaced by that of a millionth of a millionth."""
    grown: NDArray[np.float64] = np.log1p(np.maximum(ledger.returns, -1.0 + 1e-12))
    return grown


def run_rule(rule: Rule, data: Dataset, test: Window, costs: Costs, *, initial_equity: float) -> Walk:
    """A rule's weights over the test window; the rule sees the whole past, as an agent's features do."""
    weights = rule(data.bars.close[: test.stop])  # [t, S]; row t looks at closes <= t only
    window = data.window(test.start - 1, test.stop)
    ledger = simulate(window.bars, weights[test.start - 1 :], costs, initial_equity=initial_equity)
    # Row 0 of `simulate` is the initial equity before the first bar.
    cut = Ledger(*(column if name == "ruined" else column[1:] for name, column in ledger._asdict().items()))
    return Walk(cut, weights[test.start - 1 : test.stop - 1], {})


def table(
    name: str,
    fold: int,
    seed: int,
    times: NDArray[np.datetime64],
    symbols: Sequence[str],
    walk: Walk,
) -> pl.DataFrame:
    """The result table of one path; after a ruin it simply ends."""
    ledger, rows = walk.ledger, len(walk.ledger.equity)
    columns: dict[str, Any] = {
        "agent": [name] * rows,
        "fold": pl.Series([fold] * rows, dtype=pl.Int32),
        "seed": pl.Series([seed] * rows, dtype=pl.Int32),
        "open_time": pl.Series(times[:rows]).cast(pl.Datetime("ms")).dt.replace_time_zone("UTC"),
        "equity": ledger.equity,
        "log_return": log_returns(ledger),
        "turnover": ledger.turnover,
        **{item: getattr(ledger, item) for item in MONEY},
        "gross_exposure": np.abs(ledger.exposure).sum(axis=-1),
        **{f"exposure_{symbol}": ledger.exposure[:, column] for column, symbol in enumerate(symbols)},
        **{f"target_{symbol}": walk.targets[:, column] for column, symbol in enumerate(symbols)},
        "ruined": ledger.equity <= 0.0,
        **{f"info_{key}": values for key, values in walk.said.items()},
    }
    return pl.DataFrame(columns)
