"""Pendulum-v1 with everything learned: dynamics and reward.

    python -m benchmarks.pendulum [--seeds 5] [--episodes 20]

After `episodes` episodes of experience (200 steps each, the first three at random), the mean return of 20
fresh episodes, with the gate off: there is no safe action here. Bar: at least -200 for 4 of 5 seeds.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import gymnasium

from benchmarks.planned import NETWORK, bias_by_step, walk, write
from models import runtime
from models.ensemble.config import Config
from models.ensemble.train import train

CONFIG: dict[str, Any] = {
    **NETWORK,
    "warmup_steps": 600,
    "fit_steps": 200,
    "epsilon": 0.0,
    "max_rounds": 24,
    "planner": "icem",
    "horizon": 20,
    "samples": 100,
    "elite_samples": 10,
    "iterations": 3,
    "propagation": "mean",
    "gate_quantile": 1.0,
    "confidence": 0.0,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--episodes", type=int, default=20)
    arguments = parser.parse_args()
    runtime.single_thread()
    started = time.perf_counter()
    rows = []
    for seed in range(arguments.seeds):
        begun = time.perf_counter()
        env = gymnasium.make_vec("Pendulum-v1", num_envs=1)
        agent = train(env, Config(**CONFIG, env_steps=200 * arguments.episodes), seed=seed)
        walked = walk(agent, gymnasium.make_vec("Pendulum-v1", num_envs=20), seed=1000 + seed, steps=200)
        rows.append(
            {
                "seed": seed,
                "mean_return": float(walked.rewards.sum(axis=0).mean()),
                "worst_return": float(walked.rewards.sum(axis=0).min()),
                "bias_by_step": bias_by_step(walked),
                "seconds": time.perf_counter() - begun,
            }
        )
        print(rows[-1], flush=True)
    solved = sum(row["mean_return"] >= -200 for row in rows)
    write("pendulum", arguments, {"seeds": rows, "solved": solved, "of": len(rows)}, started)


if __name__ == "__main__":
    main()
