"""Times `pipelines.market.account.simulate` and the trading environment.

    python -m benchmarks.account

Prints the figures and writes them to benchmarks/results/account.json. Best of several runs after
compiling, wall-clock; the weights change every 20 bars or every bar.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipelines.market.account import simulate
from pipelines.market.costs import Costs
from pipelines.market.env import TradingVectorEnv, random_walk

SEED = 0
RUNS = 7
RESULTS = Path(__file__).parent / "results" / "account.json"


def best(run: Callable[[], object]) -> float:
    """Seconds of the fastest of `RUNS` calls, after one that compiles."""
    run()
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def simulation(batch: int, length: int, symbols: int, hold: int) -> float:
    """Seconds to simulate `batch` weight paths that change every `hold` bars."""
    bars = random_walk(length, symbols, volatility=0.002, seed=SEED)
    grid = np.random.default_rng(SEED).integers(-2, 3, (batch, length // hold + 1, symbols)) / 2.0
    weights = np.ascontiguousarray(np.repeat(grid, hold, axis=1)[:, :length])
    return best(lambda: simulate(bars, weights, Costs()))


def stepping(num_envs: int, steps: int = 1_000) -> float:
    """Seconds a step of `TradingVectorEnv`."""
    env = TradingVectorEnv(random_walk(20_000, seed=SEED), num_envs=num_envs)
    actions = np.random.default_rng(SEED).integers(0, 5, (steps, num_envs))

    def ride() -> None:
        env.reset(seed=SEED)
        for action in actions:
            env.step(action)

    return best(ride) / steps


def main() -> None:
    figures = {
        "simulate_64x1e5x1_hold20_seconds": simulation(64, 100_000, 1, 20),
        "simulate_64x1e5x1_hold1_seconds": simulation(64, 100_000, 1, 1),
        "simulate_1x1e6x1_hold20_seconds": simulation(1, 1_000_000, 1, 20),
        "simulate_1x1e6x1_hold1_seconds": simulation(1, 1_000_000, 1, 1),
        "simulate_1x1e5x10_hold1_seconds": simulation(1, 100_000, 10, 1),
        "env_step_1_seconds": stepping(1),
        "env_step_64_seconds": stepping(64),
        "env_step_1024_seconds": stepping(1024),
    }
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    result = {
        "command": "python -m benchmarks.account",
        "seed": SEED,
        "runs": RUNS,
        "machine": machine,
        "bars": {"simulate_64x1e5x1": "below 0.4 s", "simulate_1x1e6x1": "below 0.1 s"},
        "figures": figures,
    }
    print(machine)
    for name, seconds in figures.items():
        print(f"{name:36} {seconds:.6f}")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
