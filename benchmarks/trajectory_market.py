"""Offline on simulated markets: the planner against those it learned from, and returns against targets.

    python -m benchmarks.trajectory_market [--market regimes|martingale] [--first 0] [--seeds 5]
        [--updates 2500] [--test 6000]

Seeds `first` to `first + seeds - 1`. The settings were chosen on the test windows of seeds 0 and 1, so
judge on fresh ones: `--first 2`.

Each seed: a market of its own, 200 000 steps of the behaviours recorded on 100 000 hourly bars, the test on
the next ones (`--test`) as windows of 250 bars, each begun flat, so that all are traded side by side. The
behaviours trade the same windows.

Bars: on `regimes` the beam planner earns more than the mean behaviour and, within the interval,
as much as the best one in hindsight, and realised returns rise with seven targets (Spearman at least 0.8); on
`martingale` (20 seeds) no target earns more than zero beyond its standard error, before costs.
Writes benchmarks/results/trajectory_<market>.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

import models
from models import runtime
from pipelines import behaviour
from pipelines.dataset import Dataset, to_dataset
from pipelines.features import Scaler, compute, resolve, to_grid
from pipelines.market.costs import Costs
from pipelines.market.env import TradingVectorEnv
from pipelines.settings import Baselines, Features
from pipelines.sources.simulator import Kind, simulate_market

RESULTS = Path(__file__).parent / "results"
TRAIN, STEPS, WARM_UP, WINDOW = 100_000, 200_000, 400, 250
CONFIG = {
    "env_steps": STEPS,
    "updates_per_call": 50,
    "batch_size": 64,
    "bins": 24,  # a small edge needs many values in a cell
    "context": 0,
    "horizon": 2,
    "plan_every": 1,
    "discount": 0.9,  # the market's forecasts fade within some ten bars
    "return_steps": 16,
    "dropout": 0.0,
    "learning_rate": 3e-3,
    "compile": True,
}
TARGETS = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)
GRID = (-1.0, -0.5, 0.0, 0.5, 1.0)


class Windows(TradingVectorEnv):
    """Accounts that walk through windows of their own, which begin at the rows `first`."""

    first: np.ndarray

    def _begin(self, fresh: np.ndarray) -> None:
        super()._begin(fresh)
        self.rows[fresh] = self.first[fresh]
        self.ends[fresh] = self.first[fresh] + WINDOW


def market(kind: Kind, seed: int, bars: int) -> Dataset:
    """A simulated market with the default features."""
    found = simulate_market(
        kind=kind,
        symbols=["SIM"],
        interval="1h",
        start=datetime(2022, 1, 1, tzinfo=UTC),
        bars=bars,
        seed=seed,
    )
    rows = compute(to_grid(found.candles, "1h", max_gap_bars=3).lazy(), resolve(list(Features().names)))
    return to_dataset(rows.collect(), "1h")


def rank_correlation(returns: list[float]) -> float | None:
    """Spearman's, of returns with their targets; none where every target earned the same."""
    return float(spearmanr(TARGETS, returns).statistic) if len(set(returns)) > 1 else None


def walk(env: Windows, decide: Any, first: np.ndarray) -> np.ndarray:
    """Log returns `[N]` of accounts begun at the rows `first [N]` that do as `decide(observation)` says."""
    env.first = first
    observation, _ = env.reset(seed=0)
    total = np.zeros(env.num_envs)
    for _ in range(WINDOW):
        observation, reward, *_ = env.step(decide(observation))
        total += reward
    return total


def run(kind: Kind, seed: int, updates: int, test: int) -> dict[str, Any]:
    """One market: record, train, trade the test windows with the beam, with every target and as they did."""
    began = time.process_time()
    data = market(kind, seed, TRAIN + test + WARM_UP)
    cut = len(data.times) - test
    # Without an edge only prices count: costs would make every claim below zero look proved.
    costs = Costs(fee_bps=0.0, half_spread_bps=0.0, slippage_bps=0.0) if kind == "martingale" else Costs()
    scaler = Scaler.fit(data.features[:cut], data.names, method="robust", clip=5.0)
    window = data.window(cut - TRAIN, cut)
    env = TradingVectorEnv(window.bars, window.observations(scaler), costs, num_envs=64, episode_bars=256)
    table = behaviour.record(env, window.bars.close, Baselines(), STEPS, seed=seed)
    agent = models.train("trajectory", behaviour.attach(env, table), CONFIG | {"updates": updates}, seed=seed)
    shown = data.observations(scaler)
    first = cut - 1 + np.arange(test // WINDOW - 1) * WINDOW  # [B]

    def accounts(number: int) -> Windows:
        return Windows(data.bars, shown, costs, num_envs=number)

    def earn(acting: Any) -> np.ndarray:
        state = acting.initial_state(len(first))

        def decide(observation: np.ndarray) -> np.ndarray:
            nonlocal state
            decision = acting.act(observation, state, seed=seed)
            state = decision.state
            return np.asarray(decision.action)

        return walk(accounts(len(first)), decide, first)

    rules = behaviour.behaviours(data.bars.close, Baselines(), grid=GRID, seed=seed)
    crowd = accounts(len(first) * len(rules))
    wishes = np.stack([each.wish(np.arange(len(data.times))) for each in rules])  # [P, T, S]
    which = np.repeat(np.arange(len(rules)), len(first))
    followed = walk(
        crowd,
        lambda _: behaviour.nearest(crowd, wishes[which, crowd.rows]),
        np.tile(first, len(rules)),
    ).reshape(len(rules), -1)  # [P, B]
    targets = [
        earn(agent.with_config(beam_score="target", target=target))  # type: ignore[attr-defined]
        for target in TARGETS
    ]
    found = {
        "seed": seed,
        "beam": earn(agent),
        "targets": dict(zip(map(str, TARGETS), targets, strict=True)),
        "behaviours": {rule.name: each for rule, each in zip(rules, followed, strict=True)},
        "held_out": agent.counters["held_out"],  # type: ignore[attr-defined]
        "cpu_seconds": time.process_time() - began,
    }
    means = {name: round(float(np.mean(each)), 5) for name, each in found["behaviours"].items()}
    print(seed, "beam", round(float(found["beam"].mean()), 5), flush=True)
    print("targets", [round(float(each.mean()), 5) for each in targets])
    print("rules", means, round(found["cpu_seconds"]), "CPU seconds", flush=True)
    return found


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean log returns of a window of 250 bars, with standard errors over all windows and over the seeds."""

    def figures(each: list[np.ndarray]) -> dict[str, float | None]:
        values, by_seed = np.concatenate(each), np.array([part.mean() for part in each])
        spread = by_seed.std(ddof=1) / len(by_seed) ** 0.5 if len(by_seed) > 1 else None
        return {
            "mean": float(values.mean()),
            "standard_error": float(values.std(ddof=1) / len(values) ** 0.5),
            "standard_error_over_seeds": None if spread is None else float(spread),
        }

    names = list(runs[0]["behaviours"])
    behaviours = {name: figures([run["behaviours"][name] for run in runs]) for name in names}
    best = max(names, key=lambda name: behaviours[name]["mean"] or 0.0)
    average = [np.mean([run["behaviours"][name] for name in names], axis=0) for run in runs]
    targets = {name: figures([run["targets"][name] for run in runs]) for name in runs[0]["targets"]}
    return {
        "beam": figures([run["beam"] for run in runs]),
        "beam_less_mean_behaviour": figures([r["beam"] - a for r, a in zip(runs, average, strict=True)]),
        "beam_less_best_behaviour": figures([run["beam"] - run["behaviours"][best] for run in runs]),
        "best_behaviour": best,
        "behaviours": behaviours,
        "targets": targets,
        "rank_correlation": rank_correlation([each["mean"] or 0.0 for each in targets.values()]),
        "rank_correlation_by_seed": [
            rank_correlation([float(each.mean()) for each in run["targets"].values()]) for run in runs
        ],
        "held_out": {run["seed"]: run["held_out"] for run in runs[:5]},
        "cpu_seconds": [run["cpu_seconds"] for run in runs],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--market", choices=("regimes", "martingale"), default="regimes")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=2500)
    parser.add_argument("--test", type=int, default=6000)
    options = parser.parse_args()
    runtime.single_thread()
    seeds = range(options.first, options.first + options.seeds)
    result = {
        "command": f"python -m benchmarks.trajectory_market --market {options.market} "
        f"--first {options.first} --seeds {options.seeds} --updates {options.updates} --test {options.test}",
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "unit": f"log return of a window of {WINDOW} bars",
        **summary([run(options.market, seed, options.updates, options.test) for seed in seeds]),
    }
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"trajectory_{options.market}.json"
    file.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
