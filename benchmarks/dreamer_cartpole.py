"""What Dreamer reaches on CartPole-v1 in a minute of one processor: reported as measured, no bar.

    python -m benchmarks.dreamer_cartpole [--seeds 0 1 2]

The mean of 20 greedy episodes (500 is the most) with the final weights. Prints, and writes
`benchmarks/results/dreamer_cartpole.json`. One process, one thread.
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

RESULT = Path(__file__).parent / "results" / "dreamer_cartpole.json"
CONFIG: dict[str, Any] = {
    "env_steps": 20_000,
    "warmup_steps": 1_000,
    "model_first": 0.0,
    "train_ratio": 16.0,
    "batch_size": 16,
    "batch_length": 16,
    "size": "tiny",
    "learning_rate": 1e-3,
    "annealing": 0.5,
    "discount": 0.99,
    "entropy": 3e-3,
    "reward_scale": 1.0,
    "imagined_paths": 0,
    "log_steps": 2_000,
}
EPISODES = 20


def evaluate(agent: Any) -> list[float]:
    """Returns of greedy episodes, played side by side."""
    import gymnasium

    env = gymnasium.make_vec("CartPole-v1", num_envs=EPISODES, vectorization_mode="sync")
    observation, _ = env.reset(seed=10_000)
    state, step = agent.initial_state(EPISODES), 0
    returns, going = np.zeros(EPISODES), np.ones(EPISODES, bool)
    while going.any():
        action, state, _ = agent.act(observation, state, seed=step)
        observation, reward, terminated, truncated, _ = env.step(action)
        returns += reward * going
        going &= ~(terminated | truncated)
        step += 1
    return [float(each) for each in returns]


def run(seed: int) -> dict[str, Any]:
    """Trains and evaluates one seed."""
    import gymnasium

    import models

    cpu = time.process_time()
    curve: list[tuple[int, float]] = []

    def log(step: int, metrics: dict[str, float]) -> None:
        curve.append((step, round(metrics.get("train/episode_return", 0.0), 1)))
        print(f"  {step} steps, {time.process_time() - cpu:.0f} s: {curve[-1][1]}", flush=True)

    env = gymnasium.make_vec("CartPole-v1", num_envs=4, vectorization_mode="sync")
    agent: Any = models.train("dreamer", env, CONFIG, seed=seed, log=log)
    trained = time.process_time() - cpu
    returns = evaluate(agent)
    return {
        "seed": seed,
        "mean_return": round(float(np.mean(returns)), 1),
        "least_return": min(returns),
        "updates": agent.counters["updates"],
        "cpu_seconds": round(trained, 1),
        "training_curve": curve,
    }


def main() -> None:
    """Runs the seeds one after the other and writes the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    seeds = parser.parse_args().seeds

    from models import runtime

    runtime.single_thread()
    rows = []
    for seed in seeds:
        rows.append(run(seed))
        print({name: value for name, value in rows[-1].items() if name != "training_curve"}, flush=True)
    result = {
        "command": f"python -m benchmarks.dreamer_cartpole --seeds {' '.join(map(str, seeds))}",
        "config": CONFIG,
        "rows": rows,
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, sort_keys=True, indent=1) + "\n")


if __name__ == "__main__":
    main()
