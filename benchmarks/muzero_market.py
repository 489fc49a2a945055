"""What MuZero earns on markets whose answer is known, and what searching is worth there.

    python -m benchmarks.muzero_market --kind regimes [--seeds 0 1 2 3 4] [--simulations 0 8 25 50 100]
    python -m benchmarks.muzero_market --kind martingale --seeds 0 ... 19 --simulations 25 --no-dqn \\
        --set env_steps=6000

Each seed draws its own market (hourly bars, default features and costs): 12 000 bars of training, 3 000 of
test after a gap, walked through once, bar by bar. Net log return a bar of the trained agent with each size of
search (0 is its policy head alone), and of `dqn` with its defaults and as many real steps; on the regimes
market that of the oracle that knows the law. The bars: at least half of the oracle, more than the policy
head, more than `dqn`; on the martingale not above zero beyond the standard error over seeds. Also CPU
seconds, and milliseconds a decision (a median of 20, of use on a quiet machine only). One process, one
thread. Prints, and writes benchmarks/results/muzero_<kind>.json.
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

import models
from models import runtime
from models.muzero import Config
from pipelines import backtest
from pipelines.dataset import Dataset, to_dataset
from pipelines.features import DEFAULT_FEATURES, Scaler, compute, resolve, to_grid
from pipelines.market.account import Ledger, simulate
from pipelines.market.costs import Costs
from pipelines.market.env import TradingVectorEnv
from pipelines.market.known import oracle_weights
from pipelines.sources.simulator import Kind, simulate_market

RESULTS = Path(__file__).parent / "results"
TRAIN, GAP, TEST = 12_000, 48, 3_000


class Market:
    """One drawn market with scaled features, cut into a training and a test window."""

    def __init__(self, kind: Kind, seed: int) -> None:
        drawn = simulate_market(
            kind=kind,
            symbols=["SIM"],
            interval="1h",
            start=datetime(2022, 1, 1, tzinfo=UTC),
            bars=TRAIN + GAP + TEST + 400,
            seed=2_000 + seed,
        )
        table = compute(to_grid(drawn.candles, "1h", max_gap_bars=0).lazy(), resolve(DEFAULT_FEATURES))
        data = to_dataset(table.collect(), "1h")
        skipped = len(drawn.candles) - len(data.times)
        # The first decision falls at the close before the first bar of the test.
        rows = slice(TRAIN + GAP - 1, TRAIN + GAP + TEST)
        self.truth = drawn.truth[skipped:][rows]
        self.train, self.test = data.window(0, TRAIN), data.window(rows.start, rows.stop)
        self.scaler = Scaler.fit(self.train.features, data.names)
        self.costs = Costs()

    def _env(self, window: Dataset, **options: Any) -> TradingVectorEnv:
        return TradingVectorEnv(window.bars, window.observations(self.scaler), self.costs, **options)

    def training_env(self) -> TradingVectorEnv:
        return self._env(self.train, num_envs=16, episode_bars=256, start="random")

    def test_env(self) -> TradingVectorEnv:
        return self._env(self.test, num_envs=1, episode_bars=None, start="first")

    def oracle(self) -> dict[str, float]:
        """The figures of the filter that knows the market's law."""
        weights = oracle_weights(
            self.truth["filtered_mean"].to_numpy()[:, None],
            self.truth["filtered_variance"].to_numpy()[:, None],
        )
        return figures(simulate(self.test.bars, weights, self.costs))


def figures(ledger: Ledger) -> dict[str, float]:
    """Mean log return a bar in basis points after costs, and what is traded for it."""
    growth = np.log1p(np.maximum(ledger.returns, -1.0 + 1e-12))
    return {
        "mean_log_return_bps": 1e4 * float(growth.mean()),
        "turnover_a_bar": float(ledger.turnover.mean()),
        "mean_absolute_exposure": float(np.abs(ledger.exposure).sum(axis=-1).mean()),
    }


def tested(agent: Any, market: Market, seed: int) -> dict[str, float]:
    start = time.process_time()
    walk = backtest.run_agent(agent, market.test_env(), seed=seed)
    row = figures(walk.ledger) | {"cpu_seconds": time.process_time() - start}
    if hasattr(agent, "latency"):
        row["milliseconds_a_decision"] = agent.latency()
        row["milliseconds_a_batch_of_64"] = agent.latency(batch_size=64)
    if "depth" in walk.said:
        row["mean_depth"] = float(walk.said["depth"].mean())
    return row


def run(kind: Kind, seed: int, settings: dict[str, Any], simulations: list[int], *, dqn: bool) -> Any:
    """One market: trains and tests what is asked for."""
    market = Market(kind, seed)
    row: dict[str, Any] = {"seed": seed}
    if kind == "regimes":
        row["oracle"] = market.oracle()
    start = time.process_time()
    agent: Any = models.train("muzero", market.training_env(), settings, seed=seed)
    row["train_cpu_seconds"] = time.process_time() - start
    for count in simulations:
        row[f"muzero {count}"] = tested(agent.with_simulations(count), market, seed)
    if dqn:
        steps = {"env_steps": agent.config.env_steps}
        row["dqn"] = tested(models.train("dqn", market.training_env(), steps, seed=seed), market, seed)
    print(seed, f"train {row['train_cpu_seconds']:.1f} s", " ".join(
        f"{name}: {part['mean_log_return_bps']:.2f}" for name, part in row.items() if isinstance(part, dict)
    ), flush=True)  # fmt: skip
    return row


def summary(runs: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean over seeds in basis points a bar, its standard error, and the share of the oracle."""
    found = {}
    for name in (name for name, part in runs[0].items() if isinstance(part, dict)):
        values = np.array([row[name]["mean_log_return_bps"] for row in runs])
        found[name] = {
            "mean_bps": float(values.mean()),
            "standard_error": float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0,
        }
        if "oracle" in runs[0]:
            best = np.mean([row["oracle"]["mean_log_return_bps"] for row in runs])
            found[name]["share_of_oracle"] = float(values.mean() / best)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kind", choices=["regimes", "martingale"], default="regimes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--simulations", type=int, nargs="+", default=[0, 8, 25, 50, 100])
    parser.add_argument("--no-dqn", action="store_true")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="changes of the defaults")
    options = parser.parse_args()
    runtime.single_thread()
    settings = {key: json.loads(value) for key, _, value in (part.partition("=") for part in options.set)}
    runs = [
        run(options.kind, seed, settings, options.simulations, dqn=not options.no_dqn)
        for seed in options.seeds
    ]
    found = summary(runs)
    print(json.dumps(found, indent=1))
    result = {
        "command": f"python -m benchmarks.muzero_market --kind {options.kind} --simulations "
        + " ".join(map(str, options.simulations))
        + (" --no-dqn" if options.no_dqn else "")
        + (f" --set {' '.join(options.set)}" if options.set else ""),
        "env_steps": settings.get("env_steps", Config.env_steps),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "mean": found,
        "runs": runs,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"muzero_{options.kind}.json"
    path.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
