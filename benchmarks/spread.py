"""Two assets that belong together: trading their spread against trading one of them alone.

    python -m benchmarks.spread [--seeds 3]

Both prices follow one random walk (0.6 % a bar) and part by a spread that comes back (a tenth a bar, shocks
of 0.3 %); both agents are shown the spread, learn from 6 000 steps and pay 1 bp. One may hold -1, -0.5, 0,
0.5 or 1 of the first asset (`Discrete`), the other -0.5, 0 or 0.5 of each of the two (`MultiDiscrete`): the
same gross exposure and the same expected return at most, but the pair need not carry the common walk. On
2 000 bars that neither has seen: net log return, its deviation and the ratio of the two, a bar.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

import models
from benchmarks.planned import SideBySide, walk, write
from models import runtime
from pipelines.market.account import Bars
from pipelines.market.costs import Costs
from pipelines.market.env import TradingVectorEnv

TRAIN, TEST, STRETCH = 8_000, 2_000, 250
COSTS = Costs(fee_bps=1.0, half_spread_bps=0.0, slippage_bps=0.0)
CONFIG: dict[str, Any] = {
    "env_steps": 6_000,
    "warmup_steps": 4_000,
    "fit_steps": 2_000,
    "horizon": 10,
    "samples": 64,
    "elite_samples": 10,
    "confidence": 1.0,
}


def prices(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Closes `[T, 2]` and the spread of their logarithms `[T]`."""
    draw = np.random.default_rng(seed)
    length = TRAIN + TEST + 1
    common = np.cumsum(6e-3 * draw.normal(size=length))
    spread, shocks = np.zeros(length), 3e-3 * draw.normal(size=length)
    for t in range(1, length):
        spread[t] = 0.9 * spread[t - 1] + shocks[t]
    return 100.0 * np.exp(np.stack([common + spread / 2, common - spread / 2], axis=1)), spread


def environment(kind: str, seed: int, first: int, end: int, **options: Any) -> TradingVectorEnv:
    close, spread = prices(seed)
    assets = slice(0, 1) if kind == "single" else slice(0, 2)
    close, shown = close[first:end, assets], 150.0 * spread[first:end, None]
    opened = np.concatenate([close[:1], close[:-1]])  # no gap between a close and the next open
    bars = Bars(opened, np.maximum(opened, close), np.minimum(opened, close), close)
    grid = (-1.0, -0.5, 0.0, 0.5, 1.0) if kind == "single" else (-0.5, 0.0, 0.5)
    return TradingVectorEnv(bars, shown, COSTS, grid=grid, **options)


def measured(kind: str, seed: int) -> dict[str, float]:
    env = environment(kind, seed, 0, TRAIN, num_envs=16, episode_bars=128)
    agent = models.train("ensemble", env, CONFIG, seed=seed)
    tests = [
        environment(kind, seed, first, first + STRETCH + 1, num_envs=1, episode_bars=None, start="first")
        for first in range(TRAIN, TRAIN + TEST, STRETCH)
    ]
    walked = walk(agent, SideBySide(tests), seed=seed, steps=STRETCH)
    exposure = walked.observations[:, :, 1:-1]  # after the spread, before the drawdown
    rewards = walked.rewards.reshape(-1)
    hedged = np.abs(exposure.sum(axis=-1)).sum() / max(np.abs(exposure).sum(), 1e-9)
    return {
        "mean_bp": 1e4 * float(rewards.mean()),
        "deviation_bp": 1e4 * float(rewards.std()),
        "ratio": float(rewards.mean() / max(rewards.std(), 1e-12)),
        "net_over_gross_exposure": float(hedged),
        "gross_exposure": float(np.abs(exposure).sum(axis=-1).mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    runtime.single_thread()
    started = time.perf_counter()
    rows = []
    for seed in range(arguments.seeds):
        rows += [{"seed": seed, "kind": kind, **measured(kind, seed)} for kind in ("single", "pair")]
        print(*rows[-2:], sep="\n", flush=True)
    better = sum(pair["ratio"] > single["ratio"] for single, pair in zip(rows[::2], rows[1::2], strict=True))
    write("spread", arguments, {"runs": rows, "pair_better": better, "of": arguments.seeds}, started)


if __name__ == "__main__":
    main()
