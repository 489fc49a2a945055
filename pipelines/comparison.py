"""The comparison of all agents: pure functions from the ledgers to figures.

An agent's record is its walk-forward path, fold after fold, with the equity split evenly between its seeds.
Every test and every curve is about that record; the figures of single folds and seeds stand beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from pipelines.backtest import MONEY
from pipelines.candles import periods_per_year
from pipelines.evaluation import aggregate
from pipelines.evaluation.aggregate import Record, agent_returns, record_of
from pipelines.evaluation.intervals import headline_intervals
from pipelines.evaluation.metrics import chain, net_exposure, path_figures, path_of
from pipelines.evaluation.overfitting import probability_of_backtest_overfitting
from pipelines.evaluation.resampling import Interval
from pipelines.evaluation.superiority import model_confidence_set
from pipelines.evaluation.verdict import Judgement, judge
from pipelines.settings import Params

HOLD = "buy_and_hold"
ORACLE = "oracle"
BLOCK = 24.0  # bars, of the bootstraps that compare agents with each other
PARTITIONS = 8  # of the record, for the probability of backtest overfitting
SHOWN_INTERVALS = ("total_return", "sharpe", "max_drawdown")


def records(frames: Mapping[str, pl.DataFrame], params: Params) -> dict[str, Record]:
    """The record of every agent from its result table."""
    periods, equity = periods_per_year(params.data.interval), params.account.initial_equity
    return {name: record_of(frame, periods, equity) for name, frame in frames.items()}


def by_agent(frame: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """The rows of each agent, in the order in which they first come."""
    return {str(name): part for (name,), part in frame.group_by("agent", maintain_order=True)}


def compare(
    found: Mapping[str, Record], frames: Mapping[str, pl.DataFrame], *, learned: Sequence[str], trials: int,
    params: Params,
) -> dict[str, Any]:  # fmt: skip
    """Few figures an agent, with their intervals, and the verdicts on the learned ones.

    `trials` is how many configurations were ever tried.
    """
    periods = periods_per_year(params.data.interval)
    returns = agent_returns(list(found.values()))
    replications, seed = params.evaluation.replications, params.seed
    judgement = judge(
        {name: returns[name] for name in learned},
        buy_and_hold=returns.get(HOLD),
        periods_per_year=periods,
        trials=max(trials, len(learned)),
        ruined=[name for name in learned if found[name].ruined],
        replications=replications,
        seed=seed,
    )
    intervals = headline_intervals(
        np.column_stack(list(returns.values())), periods, block=judgement.block, replications=replications,
        level=params.evaluation.confidence, seed=seed,
    )  # fmt: skip
    oracle = returns.get(ORACLE)
    agents = {}
    for (name, record), bounds in zip(found.items(), intervals, strict=True):
        agents[name] = {
            "kind": "learned" if name in learned else "oracle" if name == ORACLE else "baseline",
            "seeds": record.returns.shape[1],
            "ruined": record.ruined,
            "oracle_share": _share(returns[name], oracle),
            **_figures(record, frames[name], periods, params.account.initial_equity),
            **_bounds(bounds),
            **_verdict(name, judgement),
        }
    family = {
        "spa_zero": None if judgement.spa_zero is None else judgement.spa_zero.consistent,
        "spa_hold": None if judgement.spa_hold is None else judgement.spa_hold.consistent,
        "overfitting": overfitting([found[name] for name in learned]),
        "block_bars": judgement.block,
    }
    return {"agents": agents, "family": family, "bars": len(next(iter(returns.values())))}


def overfitting(learned: Sequence[Record]) -> float | None:
    """Probability that the best of all learned agents and seeds in sample is below the median out of it.

    None where there are fewer than two to choose from, or too few bars.
    """
    columns = [record.returns for record in learned if not record.ruined]
    table = np.concatenate(columns, axis=1) if columns else np.empty((0, 0))  # [T, N]
    moving = table[:, table.std(axis=0) > 0] if table.size else table
    if moving.ndim != 2 or moving.shape[1] < 2 or len(moving) < PARTITIONS * 30:
        return None
    return probability_of_backtest_overfitting(moving, PARTITIONS).probability


def standing(found: Mapping[str, Record], params: Params) -> dict[str, Any]:
    """Ranks fold by fold, the difference of every pair with its interval, and who may be the best."""
    periods = periods_per_year(params.data.interval)
    returns = agent_returns([record for name, record in found.items() if name != ORACLE])
    ranks = aggregate.ranks({name: aggregate.figure_matrix(found[name], "total_return") for name in returns})
    table = np.column_stack(list(returns.values()))  # [T, N]
    best = model_confidence_set(
        table, block=BLOCK, replications=params.evaluation.replications, seed=params.seed
    )
    pairs = aggregate.pairwise_differences(
        returns, periods, block=BLOCK, replications=params.evaluation.replications, seed=params.seed
    )
    return {
        "ranks": {name: rank._asdict() for name, rank in ranks.items()},
        "differences": [
            {"first": pair.first, "second": pair.second, "mean": pair.mean, **pair.interval._asdict()}
            for pair in pairs
        ],
        "best": {
            name: {"p": float(p), "included": bool(held)}
            for name, p, held in zip(returns, best.p_values, best.included, strict=True)
        },
        "runs": {
            name: aggregate.distribution(
                aggregate.figure_matrix(record, "sharpe"), seed=params.seed
            )._asdict()
            for name, record in found.items()
        },
    }


def _figures(record: Record, frame: pl.DataFrame, periods: float, initial_equity: float) -> dict[str, Any]:
    """Of the whole record; turnover, exposure and costs are means over the seeds."""
    growth = np.cumprod(1.0 + record.returns.mean(axis=1))
    whole = pl.DataFrame(
        {"open_time": record.open_time, "equity": initial_equity * growth, "ruined": growth <= 0.0}
    )
    figures: dict[str, Any] = path_figures(path_of(whole, initial_equity), periods)
    net = net_exposure(frame)
    seeds = [chain(path, initial_equity) for (_,), path in frame.group_by("seed", maintain_order=True)]
    paid = [path.select(pl.sum_horizontal(MONEY[1:]).sum()).item() / initial_equity for path in seeds]
    return figures | {
        "turnover_per_year": float(frame["turnover"].to_numpy().mean()) * periods,
        "gross_exposure": float(frame["gross_exposure"].to_numpy().mean()),
        "time_long": float((net > 0.01).mean()),
        "time_short": float((net < -0.01).mean()),
        "cost_total": float(np.mean(paid)),
    }


def _bounds(bounds: Mapping[str, Interval | None]) -> dict[str, float | None]:
    ends: dict[str, float | None] = {}
    for name in SHOWN_INTERVALS:
        interval = bounds[name]
        ends[f"{name}_low"] = None if interval is None else interval.low
        ends[f"{name}_high"] = None if interval is None else interval.high
    return ends


def _share(returns: np.ndarray, oracle: np.ndarray | None) -> float | None:
    """Mean net return as a share of the oracle's; None where there is no oracle that earns."""
    if oracle is None or oracle.mean() <= 0:
        return None
    return float(returns.mean() / oracle.mean())


def _verdict(name: str, judgement: Judgement) -> dict[str, Any]:
    if name not in judgement.verdicts:
        return {}
    verdict = judgement.verdicts[name]
    evidence = verdict.evidence
    return {
        "verdict": verdict.name,
        "words": verdict.words,
        "psr": evidence.psr,
        "dsr": evidence.dsr,
        "p_luck": evidence.p_luck,
        "p_zero": evidence.p_zero,
        "p_hold": evidence.p_hold,
        "effective_trials": evidence.effective_trials,
        "bars_needed": evidence.bars_needed,
    }
