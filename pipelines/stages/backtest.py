"""backtest <family|baselines>: every agent walks through the test window of its fold, after every cost.

Writes the ledgers (`results/<name>.parquet`), what the agents foretold (`results/forecasts`) and how one
decision came about (`results/reasons`), and the figures of every fold and seed (`metrics/<name>.json`).
`baselines` runs the rules, and on a simulated market the oracle.
"""

from __future__ import annotations

import argparse
import sys
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

import models
from pipelines import backtest, experiment, forecasts, jobs, layout, params, stage
from pipelines.candles import periods_per_year
from pipelines.dataset import Dataset
from pipelines.evaluation import forecasts as quality
from pipelines.evaluation.metrics import summarise
from pipelines.experiment import Job
from pipelines.features.scaling import Scaler
from pipelines.market import baselines
from pipelines.market.known import oracle_weights, signal_law
from pipelines.settings import Params

NAME = "backtest"
BASELINES = "baselines"
HEADLINES = ("total_return", "sharpe", "max_drawdown", "turnover_per_year", "gross_exposure", "cost_total")


class Walked(NamedTuple):
    """What is left of one job: its ledger, its scored forecasts, and the reasons of one decision."""

    ledger: pl.DataFrame
    forecasts: pl.DataFrame
    reasons: dict[str, Any]


def run(name: str) -> str:
    settings = params.load()
    if name == BASELINES:
        frame = rules(settings)
        found = figures(frame, settings)
    else:
        walks = jobs.run(walk, experiment.jobs(name, settings), label=f"backtest {name}")
        frame = pl.concat(walked.ledger for walked in walks)
        foretold = pl.concat(walked.forecasts for walked in walks)
        stage.write_table(foretold, layout.forecasts(name), f"{NAME}-{name}")
        reasons = next((walked.reasons for walked in walks if walked.reasons), {})
        stage.write_json(reasons, layout.reasons(name), f"{NAME}-{name}")
        found = figures(frame, settings)
        asked = settings.evaluation
        model = quality.figures(
            foretold, replications=asked.replications, level=asked.confidence, seed=settings.seed
        )
        if model is not None:
            found[name]["model"] = stage.rounded(model, 4)
    stage.write_table(frame, layout.results(name), f"{NAME}-{name}")
    stage.write_json(found, layout.metrics(name), f"{NAME}-{name}")
    return f"{name}: {frame.select('agent', 'fold', 'seed').n_unique()} paths, {len(frame)} bars"


def walk(job: Job) -> Walked:
    """One trained agent through its test window (of cross-validation: its windows, each by itself)."""
    folder = layout.ARTIFACTS / job.family / layout.job(job.fold, job.seed)
    data = experiment.dataset(job.params)
    scaler = Scaler.load(folder / "scaler.json")
    agent, seed = models.load(folder), job.consumed_seed
    asked = job.params.evaluation.forecast
    ledgers, foretold = [], []
    for fold, path in experiment.tested(job, len(data.times)):
        env = experiment.test_env(data, fold, scaler, job.params)
        probed = forecasts.probe_steps(fold.test.bars, asked)
        walked = backtest.run_agent(agent, env, seed=seed, probe_at=probed)
        times = data.times[fold.test.rows]
        label = job.family, fold.index, experiment.path_seed(job, path)
        ledgers.append(backtest.table(*label, times, data.symbols, walked))
        past = experiment.joined([data.window(*window) for window in fold.windows]).bars
        scores = forecasts.foretell(agent, env, walked, past=past, asked=asked, seed=seed)
        foretold.append(forecasts.labelled(scores, *label))
    reasons: dict[str, Any] = {}
    last = experiment.jobs(job.family, job.params)[-1].fold
    if job.fold == last and job.seed == 0 and walked.probes:
        middle = walked.probes[len(walked.probes) // 2]
        if pictures := forecasts.reasons(agent, middle, seed=seed):
            reasons = {
                "fold": job.fold,
                "seed": job.seed,
                "time": str(times[middle.step].astype("datetime64[m]")),
                "observation": experiment.observed(data),
                "pictures": pictures,
            }
    return Walked(pl.concat(ledgers), pl.concat(foretold), reasons)


def rules(settings: Params) -> pl.DataFrame:
    """Every rule over every fold; the oracle too, where the truth is known."""
    data = experiment.dataset(settings)
    costs = experiment.costs(settings.account)
    grid = tuple(settings.account.grid)
    known = baselines.rules(settings.evaluation.baselines, grid=grid, seed=settings.seed)
    if layout.TRUTH_TABLE.exists():
        weights = oracle(data, settings)
        known["oracle"] = lambda closes: weights[: len(closes)]
    tables = [
        backtest.table(
            name,
            fold.index,
            0,
            data.times[fold.test.rows],
            data.symbols,
            backtest.run_rule(rule, data, fold.test, costs, initial_equity=settings.account.initial_equity),
        )
        for name, rule in known.items()
        for fold in experiment.folds(settings, len(data.times))
    ]
    return pl.concat(tables)


def oracle(data: Dataset, settings: Params) -> NDArray[np.float64]:
    """Weights [T, S] of the policy that knows the market's parameters, but not its hidden regime."""
    truth = pl.read_parquet(layout.TRUTH_TABLE)
    account = settings.account
    mean, variance = (
        np.stack([aligned(truth, symbol, data, column) for symbol in data.symbols], axis=1)  # [T, S]
        for column in ("filtered_mean", "filtered_variance")
    )
    weights: NDArray[np.float64] = oracle_weights(
        mean,
        variance,
        cost_bps=account.fee_bps + account.half_spread_bps + account.slippage_bps,
        grid=account.grid,
        law=signal_law(
            interval=settings.data.interval,
            symbols=len(data.symbols),
            correlation=settings.data.simulator.correlation,
        ),
    )
    return weights / len(data.symbols)


def aligned(truth: pl.DataFrame, symbol: str, data: Dataset, column: str) -> NDArray[np.float64]:
    """A column of the truth [T] on the bars of the data set, which begins after the warm-up."""
    times = pl.DataFrame({"open_time": pl.Series(data.times).dt.replace_time_zone("UTC")})
    own = truth.filter(pl.col("symbol") == symbol).cast({"open_time": times.schema["open_time"]})
    values: NDArray[np.float64] = times.join(own, on="open_time", how="left", maintain_order="left")[
        column
    ].to_numpy()
    return values


def figures(frame: pl.DataFrame, settings: Params) -> dict[str, Any]:
    """Medians over folds and seeds first, then every path: what `dvc metrics diff` shows."""
    periods = periods_per_year(settings.data.interval)
    agents: dict[str, Any] = {}
    for (agent,), paths in frame.group_by("agent", maintain_order=True):
        runs = {
            f"fold-{fold}-seed-{seed}": summarise(path, periods, settings.account.initial_equity)
            for (fold, seed), path in paths.group_by("fold", "seed", maintain_order=True)
        }
        agents[str(agent)] = {
            "median": {name: _median([run[name] for run in runs.values()]) for name in HEADLINES},
            "runs": runs,
        }
    return agents


def _median(values: list[Any]) -> float | None:
    defined = [value for value in values if value is not None]
    return median(defined) if defined else None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m pipelines.stages.backtest", description=__doc__)
    parser.add_argument("name", choices=[*sorted(models.FAMILIES), BASELINES])
    name = parser.parse_args().name
    return stage.run(f"{NAME}-{name}", lambda: run(name))


if __name__ == "__main__":
    sys.exit(main())
