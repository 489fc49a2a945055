"""Offline on simulated markets: the planner against those it learned from, and returns against targets.

    python -m benchmarks.trajectory_market [--market regimes|martingale] [--seeds 5] [--updates 2000]

Each seed: 15 000 hourly bars, the behaviours recorded on the first 12 000, the test on the last 3 000.

Bars: on `regimes` the beam planner earns more than the mean behaviour and, within the interval of the seeds,
as much as the best one, and realised returns rise with seven targets (Spearman at least 0.8); on `martingale`
(20 seeds) no target earns more than zero beyond its standard error, before costs.
Writes benchmarks/results/trajectory_<market>.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

import models
from models import runtime
from pipelines import backtest, behaviour
from pipelines.dataset import Dataset, to_dataset
from pipelines.features import Scaler, compute, resolve, to_grid
from pipelines.market.costs import Costs
from pipelines.market.env import TradingVectorEnv
from pipelines.params import Baselines, Features
from pipelines.sources.simulator import simulate_market

RESULTS = Path(__file__).parent / "results"
TRAIN, TEST, WARM_UP = 12_000, 3_000, 400
TARGETS = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)


def market(kind: str, seed: int) -> Dataset:
    """A simulated market with the default features."""
    found = simulate_market(
        kind=kind,
        symbols=["SIM"],
        interval="1h",
        start=datetime(2022, 1, 1, tzinfo=UTC),
        bars=TRAIN + TEST + WARM_UP,
        seed=seed,
    )
    rows = compute(to_grid(found.candles, "1h", max_gap_bars=3).lazy(), resolve(list(Features().names)))
    return to_dataset(rows.collect(), "1h")


def rank_correlation(returns: list[float]) -> float | None:
    """Spearman's, of returns with their targets; none where every target earned the same."""
    return float(spearmanr(TARGETS, returns).statistic) if len(set(returns)) > 1 else None


def environment(data: Dataset, scaler: Scaler, costs: Costs, **options: Any) -> TradingVectorEnv:
    return TradingVectorEnv(data.bars, data.observations(scaler), costs, **options)


def run(kind: str, seed: int, updates: int) -> dict[str, Any]:
    """One market: record, train, trade the test window with the beam and with every target."""
    data = market(kind, seed)
    cut = len(data.times) - TEST
    # Without an edge only prices count: costs would make every claim below zero look proved.
    costs = Costs(fee_bps=0.0, half_spread_bps=0.0, slippage_bps=0.0) if kind == "martingale" else Costs()
    scaler = Scaler.fit(data.features[:cut], data.names, method="robust", clip=5.0)
    window, test = data.window(cut - TRAIN, cut), data.window(cut - 1, len(data.times))
    env = environment(window, scaler, costs, num_envs=16, episode_bars=256)
    table = behaviour.record(env, window.bars.close, Baselines(), 48_000, seed=seed)
    behaviour.attach(env, table)
    agent = models.train("trajectory", env, {"env_steps": 48_000, "updates": updates}, seed=seed)
    walk = {"num_envs": 1, "episode_bars": None, "start": "first"}

    def earn(acting: Any) -> float:
        ledger, _ = backtest.run_agent(acting, environment(test, scaler, costs, **walk), seed=seed)
        return float(np.log(max(ledger.equity[-1], 1e-9) / 1e6))

    past = data.bars.close
    rules = {}
    for each in behaviour.behaviours(past, Baselines(), grid=(-1.0, -0.5, 0.0, 0.5, 1.0), seed=seed):
        weights = each.wish(np.arange(cut - 1, len(past)))
        ledger = backtest.simulate(test.bars, weights, costs)
        rules[each.name] = float(np.log(max(ledger.equity[-1], 1e-9) / 1e6))
    targets = {
        str(target): earn(agent.with_config(mode="condition", target=target))  # type: ignore[attr-defined]
        for target in TARGETS
    }
    found = {
        "seed": seed,
        "beam": earn(agent),
        "targets": targets,
        "rank_correlation": rank_correlation(list(targets.values())),
        "behaviours": rules,
        "behaviour_mean": float(np.mean(list(rules.values()))),
        "behaviour_best": max(rules.values()),
        "held_out": agent.counters["held_out"],  # type: ignore[attr-defined]
    }
    shown = ("seed", "beam", "targets", "rank_correlation", "behaviour_mean", "behaviour_best")
    print({name: found[name] for name in shown}, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--market", choices=("regimes", "martingale"), default="regimes")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=2000)
    options = parser.parse_args()
    runtime.single_thread()
    runs = [run(options.market, seed, options.updates) for seed in range(options.seeds)]
    beam = np.array([each["beam"] for each in runs])
    targets = np.array([list(each["targets"].values()) for each in runs])  # [seeds, 7]
    root = max(1, len(runs)) ** 0.5
    result = {
        "command": f"python -m benchmarks.trajectory_market --market {options.market} "
        f"--seeds {options.seeds} --updates {options.updates}",
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "runs": runs,
        "beam_mean": float(beam.mean()),
        "beam_standard_error": float(beam.std(ddof=1) / root) if len(runs) > 1 else None,
        "target_means": targets.mean(axis=0).tolist(),
        "target_standard_errors": (targets.std(axis=0, ddof=1) / root).tolist() if len(runs) > 1 else None,
        "rank_correlation_of_means": rank_correlation(targets.mean(axis=0).tolist()),
    }
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"trajectory_{options.market}.json"
    file.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
