"""MuZero on CartPole-v1: the mean return of 20 episodes of the trained agent.

    python -m benchmarks.muzero_cartpole [--seeds 0 1 2 3 4] [--env-steps 50000] [--simulations 25]

The bar: at least 475 within 50 000 steps for four of five seeds, under 20 minutes a seed. Prints the curve,
writes benchmarks/results/muzero_cartpole.json (one entry a seed).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

import models
from models import runtime

RESULTS = Path(__file__).parent / "results" / "muzero_cartpole.json"
ENVIRONMENTS = 8
CONFIG: dict[str, Any] = {
    "env_steps": 50_000,
    "warmup_steps": 1_000,
    "gather": "search",
    "updates_per_step": 0.2,
    "batch_size": 128,
    "history": 1,
    "latent": 32,
    "hidden": 64,
    "action_gate": False,
    "discount": 0.99,
    "n_step": 10,
    "unroll_steps": 5,
    "simulations": 25,
    "train_simulations": 16,
    "value_weight": 0.25,
    "consistency_weight": 1.0,
    "weight_decay": 1e-4,
    "learning_rate": 2e-3,
    "final_learning_rate": 2e-4,
    "target_period": 100,
    "reanalyse_ratio": 0.1,
    "log_steps": 2_000,
}


def evaluate(agent: Any, name: str, episodes: int, seed: int) -> np.ndarray:
    """Undiscounted returns of `episodes` episodes, one in each sub-environment."""
    env = gymnasium.make_vec(name, num_envs=episodes)
    shown, _ = env.reset(seed=seed)
    state = agent.initial_state(episodes)
    total, alive, step = np.zeros(episodes), np.ones(episodes, bool), 0
    while alive.any():
        decision = agent.act(shown, state, seed=step)
        state, step = decision.state, step + 1
        shown, reward, terminated, truncated, _ = env.step(decision.action)
        total += np.where(alive, reward, 0.0)
        alive &= ~(terminated | truncated)
    return total


def run(name: str, config: dict[str, Any], seed: int, episodes: int = 20) -> dict[str, Any]:
    """Trains one seed and measures it."""
    curve: list[tuple[int, dict[str, float]]] = []

    def log(step: int, metrics: dict[str, float]) -> None:
        curve.append((step, metrics))
        told = ("train/episode_return", "train/loss", "train/policy", "search/depth", "search/value")
        print(f"seed {seed} step {step:6d} " + " ".join(
            f"{part.split('/')[1]} {metrics[part]:.3f}" for part in told if part in metrics
        ), flush=True)  # fmt: skip

    start = time.perf_counter()
    env = gymnasium.make_vec(name, num_envs=ENVIRONMENTS)
    agent = models.train("muzero", env, config, seed=seed, log=log)
    seconds = time.perf_counter() - start
    totals = {
        simulations: evaluate(agent.with_simulations(simulations), name, episodes, 10_000 + seed)
        for simulations in dict.fromkeys((0, agent.config.simulations))
    }
    figures = {f"mean_return_{simulations}_simulations": float(t.mean()) for simulations, t in totals.items()}
    print(f"seed {seed}: {figures}, {seconds:.0f} s", flush=True)
    episode_returns = [(s, m["train/episode_return"]) for s, m in curve if "train/episode_return" in m]
    return {"seed": seed, "train_seconds": seconds, "curve": episode_returns, **figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--env-steps", type=int, default=CONFIG["env_steps"])
    parser.add_argument("--simulations", type=int, default=CONFIG["simulations"])
    options = parser.parse_args()
    runtime.single_thread()
    config = {**CONFIG, "env_steps": options.env_steps, "simulations": options.simulations}
    runs = [run("CartPole-v1", config, seed) for seed in options.seeds]
    result = {
        "command": "python -m benchmarks.muzero_cartpole",
        "config": config,
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "bar": "at least 475 for 4 of 5 seeds",
        "runs": runs,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
