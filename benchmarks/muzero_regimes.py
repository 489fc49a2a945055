"""What searching is worth: one trained agent with 0, 8, 25, 50 and 100 simulations on the same test window.

    python -m benchmarks.muzero_regimes [--seeds 0 1 2 3 4] [--fold 0] [--simulations 0 8 25 50 100]

Trains MuZero and, for as many real steps, `dqn` on a fold of the market that `params.yaml` names (run
`dvc repro features` first) and walks each once through the test window. The bars: at least half of the
oracle after costs, more than its own policy head (0 simulations), more than `dqn`. Prints the figures and
writes benchmarks/results/muzero_regimes.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np

import models
from models import muzero, runtime
from pipelines import backtest, experiment, params
from pipelines.market.account import Ledger
from pipelines.stages.backtest import oracle

RESULTS = Path(__file__).parent / "results" / "muzero_regimes.json"


def figures(ledger: Ledger) -> dict[str, float]:
    """Mean log return a bar in basis points after costs, and what is traded for it."""
    growth = np.log1p(np.maximum(ledger.returns, -1.0 + 1e-12))
    return {
        "mean_log_return_bps": 1e4 * float(growth.mean()),
        "turnover_a_bar": float(ledger.turnover.mean()),
        "mean_exposure": float(ledger.exposure.sum(axis=-1).mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--simulations", type=int, nargs="+", default=[0, 8, 25, 50, 100])
    parser.add_argument("--env-steps", type=int, default=muzero.Config.env_steps)
    options = parser.parse_args()
    runtime.single_thread()
    settings = params.load()
    data = experiment.dataset(settings)
    fold = experiment.folds(settings, len(data.times))[options.fold]
    scaler = experiment.fit_scaler(data, fold, settings)
    weights = oracle(data, settings)
    best = backtest.run_rule(
        lambda closes: weights[: len(closes)],
        data,
        fold.test,
        experiment.costs(settings.account),
        initial_equity=settings.account.initial_equity,
    )
    results: dict[str, Any] = {"oracle": figures(best)}
    print("oracle", results["oracle"], flush=True)
    for seed in options.seeds:
        for family in ("muzero", "dqn"):
            start = time.perf_counter()
            env = experiment.training_env(data, fold, scaler, settings)
            agent: Any = models.train(family, env, {"env_steps": options.env_steps}, seed=seed)
            row: dict[str, Any] = {"train_seconds": time.perf_counter() - start}
            variants = {"dqn": agent} if family == "dqn" else {
                str(count): agent.with_simulations(count) for count in options.simulations
            }  # fmt: skip
            for name, variant in variants.items():
                start = time.perf_counter()
                test = experiment.test_env(data, fold, scaler, settings)
                ledger, said = backtest.run_agent(variant, test, seed=seed)
                row[name] = figures(ledger) | {
                    "seconds": time.perf_counter() - start,
                    "mean_depth": float(np.mean(said["depth"])) if "depth" in said else 0.0,
                }
                print(f"seed {seed} {family} {name}: {row[name]}", flush=True)
            results[f"{family} seed {seed}"] = row
    result = {
        "command": "python -m benchmarks.muzero_regimes",
        "env_steps": options.env_steps,
        "fold": options.fold,
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "results": results,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
