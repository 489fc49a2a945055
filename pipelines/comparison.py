"""The comparison of all agents: pure functions from the ledgers to figures and series."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.backtest import MONEY
from pipelines.candles import periods_per_year
from pipelines.evaluation.metrics import chain, exposure_histogram, net_exposure, summarise
from pipelines.evaluation.verdict import Judgement, judge
from pipelines.params import Params

HOLD = "buy_and_hold"
ORACLE = "oracle"
EDGES = np.linspace(-1.05, 1.05, 22)  # bins of a tenth, centred on -1.0, -0.9, ..., 1.0
MEDIANS = (
    "total_return",
    "annual_return",
    "volatility",
    "sharpe",
    "sortino",
    "calmar",
    "max_drawdown",
    "max_drawdown_bars",
    "hit_rate",
    "turnover_per_year",
    "gross_exposure",
    "time_long",
    "time_short",
    "cost_total",
)


def compare(frame: pl.DataFrame, *, learned: Sequence[str], trials: int, params: Params) -> dict[str, Any]:
    """Figures of every agent on its whole walk-forward path, and the verdicts on the learned ones.

    `frame` holds the result tables of all agents; `trials` is how many configurations were ever tried.
    """
    periods = periods_per_year(params.data.interval)
    equity = params.account.initial_equity
    returns = {name: mean_returns(part) for name, part in by_agent(frame).items()}
    judgement = judge(
        {name: returns[name] for name in learned},
        buy_and_hold=returns.get(HOLD),
        periods_per_year=periods,
        trials=max(trials, len(learned)),
        ruined=[name for name in learned if frame.filter(pl.col("agent") == name)["ruined"].any()],
        replications=params.evaluation.replications,
        seed=params.seed,
    )
    agents = {
        name: _figures(part, periods, equity)
        | {"kind": _kind(name, learned), "oracle_share": _share(returns[name], returns.get(ORACLE))}
        | _verdict(name, judgement)
        for name, part in by_agent(frame).items()
    }
    family = {
        "spa_zero": None if judgement.spa_zero is None else judgement.spa_zero.consistent,
        "spa_hold": None if judgement.spa_hold is None else judgement.spa_hold.consistent,
        "block_bars": judgement.block,
    }
    return {"agents": agents, "family": family, "bars": len(next(iter(returns.values())))}


def by_agent(frame: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """The rows of each agent, in the order in which they first come."""
    return {str(name): part for (name,), part in frame.group_by("agent", maintain_order=True)}


def mean_returns(paths: pl.DataFrame) -> NDArray[np.float64]:
    """Simple returns [T] over all folds of the equity split evenly between the seeds."""
    return (
        paths.with_columns(simple=pl.col("log_return").exp() - 1.0)
        .group_by("open_time")
        .agg(pl.col("simple").mean())
        .sort("open_time")["simple"]
        .to_numpy()
    )


def equity_curves(frame: pl.DataFrame, points: int) -> pl.DataFrame:
    """Relative equity of every agent over all folds: median and range over seeds, drawdown, exposure."""
    tables = []
    for name, part in by_agent(frame).items():
        seeds = [_curve(path) for (_,), path in part.group_by("seed", maintain_order=True)]
        merged = (
            pl.concat(seeds)
            .group_by("time")
            .agg(
                equity=pl.col("equity").median(),
                low=pl.col("equity").min(),
                high=pl.col("equity").max(),
                drawdown=pl.col("drawdown").median(),
                exposure=pl.col("exposure").median(),
            )
            .sort("time")
        )
        step = max(1, len(merged) // points)
        last = pl.int_range(pl.len()) == pl.len() - 1
        kept = merged.filter((pl.int_range(pl.len()) % step == 0) | last)
        tables.append(kept.select(pl.lit(name).alias("agent"), pl.all()))
    return pl.concat(tables).with_columns(pl.col("time").dt.strftime("%Y-%m-%dT%H:%M"))


def _curve(path: pl.DataFrame) -> pl.DataFrame:
    chained = chain(path)
    equity = chained["equity"] / chained["equity"][0]
    return pl.DataFrame(
        {
            "time": chained["open_time"],
            "equity": equity,
            "drawdown": equity / equity.cum_max() - 1.0,
            "exposure": net_exposure(chained),
        }
    )


def exposure_shares(frame: pl.DataFrame) -> pl.DataFrame:
    """Share of the time that every agent spent at each net exposure, in bins of a tenth."""
    centres = np.round((EDGES[1:] + EDGES[:-1]) / 2, 1)
    tables = []
    for name, part in by_agent(frame).items():
        shares = exposure_histogram(net_exposure(part), EDGES)
        tables.append(pl.DataFrame({"agent": [name] * len(centres), "exposure": centres, "share": shares}))
    return pl.concat(tables).filter(pl.col("share") > 0)


def cost_shares(frame: pl.DataFrame, initial_equity: float) -> pl.DataFrame:
    """Each ledger item summed over a path, as a share of the start equity; mean over folds and seeds."""
    return (
        frame.group_by("agent", "fold", "seed", maintain_order=True)
        .agg(pl.col(MONEY).sum() / initial_equity)
        .group_by("agent", maintain_order=True)
        .agg(pl.col(MONEY).mean())
        .unpivot(MONEY, index="agent", variable_name="item", value_name="share")
        .sort("agent", "item")
    )


def _figures(paths: pl.DataFrame, periods: float, initial_equity: float) -> dict[str, Any]:
    """Median over seeds of the figures of the walk-forward path; the range over seeds of the headline."""
    runs = [
        summarise(chain(path, initial_equity), periods, initial_equity)
        for (_,), path in paths.group_by("seed", maintain_order=True)
    ]
    figures: dict[str, Any] = {name: _median([run[name] for run in runs]) for name in MEDIANS}
    totals = [float(run["total_return"] or 0.0) for run in runs]
    figures["total_return_low"], figures["total_return_high"] = min(totals), max(totals)
    figures["ruined"] = any(run["ruined"] for run in runs)
    figures["seeds"] = len(runs)
    return figures


def _median(values: Sequence[Any]) -> float | None:
    defined = [value for value in values if value is not None]
    return median(defined) if defined else None


def _share(returns: NDArray[np.float64], oracle: NDArray[np.float64] | None) -> float | None:
    """Mean net return as a share of the oracle's; None where there is no oracle that earns."""
    if oracle is None or oracle.mean() <= 0:
        return None
    return float(returns.mean() / oracle.mean())


def _kind(name: str, learned: Sequence[str]) -> str:
    if name in learned:
        return "learned"
    return "oracle" if name == ORACLE else "baseline"


def _verdict(name: str, judgement: Judgement) -> dict[str, Any]:
    if name not in judgement.verdicts:
        return {}
    verdict = judgement.verdicts[name]
    evidence = verdict.evidence
    interval = evidence.interval
    return {
        "verdict": verdict.name,
        "words": verdict.words,
        "sharpe_low": None if interval is None else interval.low,
        "sharpe_high": None if interval is None else interval.high,
        "psr": evidence.psr,
        "dsr": evidence.dsr,
        "p_zero": evidence.p_zero,
        "p_hold": evidence.p_hold,
        "effective_trials": evidence.effective_trials,
        "bars_needed": evidence.bars_needed,
    }
