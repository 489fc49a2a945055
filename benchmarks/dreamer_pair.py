"""Does one Dreamer over two assets see what two over one each cannot?

    python -m benchmarks.dreamer_pair [--seeds 0 1 2 3 4]

Two prices share a random walk and are kept together by a spread that returns to zero (half-life three bars):
log A = c + s / 2, log B = c - s / 2. Who sees one of them sees mostly the walk; who sees both can subtract.
One agent holds both (`MultiDiscrete`, at most half of the equity in each); against it two agents with half of
the capital each, alone with their own asset, with the same configuration, features and costs (6.5 basis
points of what is traded). 6 000 bars of training, 3 000 of test. Net log growth a bar. One process, one
thread. Prints, and writes `benchmarks/results/dreamer_pair.json`.
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

RESULT = Path(__file__).parent / "results" / "dreamer_pair.json"
TRAIN, TEST = 6_000, 3_000
WALK, PULL, SHOCK = 0.012, 0.2, 0.01  # a bar: of the walk, towards zero, of the spread
CONFIG: dict[str, Any] = {"env_steps": 10_000, "imagined_paths": 0}
BOTH, ALONE = (-0.5, -0.25, 0.0, 0.25, 0.5), (-1.0, -0.5, 0.0, 0.5, 1.0)


def prices(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Closes `[T, 2]` and features `[T, 2, 2]`: of each asset last return and distance from a mean."""
    draw = np.random.default_rng([seed, 17])
    bars = TRAIN + TEST
    walk = np.cumsum(WALK * draw.standard_normal(bars))
    spread, mean = np.zeros(bars), np.zeros(2)
    for t in range(1, bars):
        spread[t] = (1.0 - PULL) * spread[t - 1] + SHOCK * draw.standard_normal()
    log = walk[:, None] + np.array([0.5, -0.5]) * spread[:, None]  # [T, 2]
    last = np.diff(log, axis=0, prepend=log[:1])
    away = np.zeros_like(log)
    for t in range(bars):
        mean = mean + (log[t] - mean) / 8.0
        away[t] = log[t] - mean
    return 100.0 * np.exp(log), np.stack([last, away], axis=-1) / WALK


def market(closes: np.ndarray, features: np.ndarray, window: slice, assets: list[int], **options: Any) -> Any:
    """The environment of `assets` over a window; every open is the close before."""
    from pipelines.market.bars import Bars
    from pipelines.market.env import TradingVectorEnv

    close = closes[window][:, assets]
    opened = np.concatenate([close[:1], close[:-1]])
    bars = Bars(opened, np.maximum(opened, close), np.minimum(opened, close), close)
    grid = BOTH if len(assets) == 2 else ALONE
    return TradingVectorEnv(bars, features[window][:, assets].reshape(len(close), -1), grid=grid, **options)


def growth(seed: int, assets: list[int]) -> dict[str, float]:
    """Trains on the first window; final equity over the initial one, mean turnover on the second."""
    import models

    closes, features = prices(seed)
    env = market(closes, features, slice(0, TRAIN), assets, num_envs=16, episode_bars=128)
    agent = models.train("dreamer", env, CONFIG, seed=seed)
    env = market(closes, features, slice(TRAIN, None), assets, num_envs=1, episode_bars=None, start="first")
    observation, _ = env.reset(seed=0)
    state, over, total, turnover = agent.initial_state(1), False, 0.0, []
    while not over:
        action, state, _ = agent.act(observation, state, seed=0)
        observation, reward, terminated, truncated, info = env.step(action)
        total, over = total + float(reward[0]), bool(terminated[0] or truncated[0])
        turnover.append(float(info["turnover"][0]))
    return {"log_growth": total, "turnover": float(np.mean(turnover))}


def run(seed: int) -> dict[str, Any]:
    """One pair, one agent over both and one over each."""
    cpu = time.process_time()
    both, first, second = (growth(seed, assets) for assets in ([0, 1], [0], [1]))
    alone = np.log(np.mean(np.exp([first["log_growth"], second["log_growth"]])))
    return {
        "seed": seed,
        "both_bps": round(1e4 * both["log_growth"] / TEST, 2),
        "two_alone_bps": round(1e4 * float(alone) / TEST, 2),
        "each_alone_bps": [round(1e4 * each["log_growth"] / TEST, 2) for each in (first, second)],
        "turnover": [round(each["turnover"], 3) for each in (both, first, second)],
        "cpu_seconds": round(time.process_time() - cpu, 1),
    }


def main() -> None:
    """Runs the seeds one after the other and writes the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    seeds = parser.parse_args().seeds

    from models import runtime

    runtime.single_thread()
    rows = []
    for seed in seeds:
        rows.append(run(seed))
        print(rows[-1], flush=True)
    result = {
        "command": f"python -m benchmarks.dreamer_pair --seeds {' '.join(map(str, seeds))}",
        "config": CONFIG,
        "rows": rows,
        "both_earn_more": sum(row["both_bps"] > row["two_alone_bps"] for row in rows),
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, sort_keys=True, indent=1) + "\n")
    print(f"one over both earns more in {result['both_earn_more']} of {len(rows)} seeds")


if __name__ == "__main__":
    main()
