"""Offline control: from recorded steps of poor and middling CartPole-v1 policies to a planner that balances.

    python -m benchmarks.trajectory_cartpole [--seeds 5] [--updates 1500]

The record: linear controllers with random gains, each episode with its own share of random actions; only
episodes are kept that leave the mean return at 150 or below. The learner never steps the environment.
Writes benchmarks/results/trajectory_cartpole.json. Bar: a mean return of at least 400 over 20 episodes.
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
from models.trajectory.data import Record

RESULTS = Path(__file__).parent / "results" / "trajectory_cartpole.json"
STEPS = 50_000
CONFIG = {
    "env_steps": STEPS,
    "updates": 1500,
    "updates_per_call": 50,
    "batch_size": 32,
    "context": 2,
    "horizon": 8,
    "bins": 100,
    "width": 64,
    "learning_rate": 1e-3,
    "discount": 0.99,
    "return_steps": 100,
    "plan_every": 1,
    "beam_width": 16,
    "beam_expand": 2,
    "action_cdf": 1.0,
    "action_weight": 1.0,
    "reward_weight": 1.0,  # always one: there is nothing to learn
    "value_weight": 1.0,
    "beam_score": "return",
    "log_updates": 500,
    "checkpoint_updates": 1_000_000,
}


def record(steps: int, seed: int) -> Record:
    """Mixed-quality episodes with a mean return of at most 150."""
    env = gymnasium.make("CartPole-v1")
    draw = np.random.default_rng(seed)
    rows: list[tuple[np.ndarray, int, float, bool, int]] = []
    episode, total = 0, 0.0
    observation, _ = env.reset(seed=seed)
    while len(rows) < steps:
        kernel = np.array([0.1, 0.5, 1.0, 1.0]) * draw.normal(1.0, 1.0, 4)
        noise = draw.uniform(0.0, 1.0)
        own: list[tuple[np.ndarray, int, float, bool, int]] = []
        over = False
        while not over:
            greedy = int(observation @ kernel > 0)
            action = int(draw.integers(0, 2)) if draw.random() < noise else greedy
            shown, reward, terminated, truncated, _ = env.step(action)
            own.append((observation, action, float(reward), bool(terminated), episode))
            observation, over = shown, terminated or truncated
        observation, _ = env.reset()
        if (total + len(own)) / (episode + 1) > 150.0:
            continue
        rows += own
        total += len(own)
        episode += 1
    shown, action, reward, terminated, number = zip(*rows, strict=True)
    return Record(
        np.stack(shown).astype(np.float32),
        np.array(action),
        np.array(reward),
        np.array(terminated),
        np.array(number),
    )


def evaluate(agent: Any, episodes: int, seed: int) -> np.ndarray:
    """Returns `[episodes]` of the agent, all episodes side by side."""
    env = gymnasium.make_vec("CartPole-v1", num_envs=episodes)
    observation, _ = env.reset(seed=10_000 + seed)
    state, returns, alive = agent.initial_state(episodes), np.zeros(episodes), np.ones(episodes, bool)
    for step in range(500):
        decision = agent.act(observation, state, seed=step)
        state = decision.state
        observation, reward, terminated, truncated, _ = env.step(decision.action)
        returns += reward * alive
        alive &= ~(terminated | truncated)
        if not alive.any():
            break
    return returns


def run(seed: int, changes: dict[str, Any]) -> dict[str, Any]:
    """One seed: record, train, plan."""
    env = gymnasium.make_vec("CartPole-v1", num_envs=2)
    env.recorded = record(STEPS, seed)
    lengths = np.diff(env.recorded.starts())
    started, cpu = time.perf_counter(), time.process_time()
    agent = models.train("trajectory", env, {**CONFIG, **changes}, seed=seed, log=_say)
    trained = time.perf_counter() - started
    found = {
        "seed": seed,
        "record_mean_return": float(lengths.mean()),
        "record_longest": int(lengths.max()),
        "train_seconds": trained,
        "train_core_seconds": time.process_time() - cpu,
        "held_out": agent.counters["held_out"],  # type: ignore[attr-defined]
    }
    for name, variant in (
        ("beam", agent),
        ("condition_90", agent.with_config(mode="condition", target=0.9)),  # type: ignore[attr-defined]
    ):
        started = time.perf_counter()
        returns = evaluate(variant, 20, seed)
        found[name] = {
            "mean": float(returns.mean()),
            "lowest": float(returns.min()),
            "seconds": time.perf_counter() - started,
        }
        print(seed, name, found[name], flush=True)
    return found


def _say(step: int, metrics: dict[str, float]) -> None:
    print(step, {name: round(value, 3) for name, value in metrics.items()}, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=CONFIG["updates"])
    options = parser.parse_args()
    runtime.single_thread()
    runs = [run(seed, {"updates": options.updates}) for seed in range(options.seeds)]
    result = {
        "command": f"python -m benchmarks.trajectory_cartpole --seeds {options.seeds} "
        f"--updates {options.updates}",
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "bar": "beam mean of at least 400 over 20 episodes, from records with a mean of at most 150",
        "runs": runs,
    }
    for each in runs:
        print(each["seed"], each["record_mean_return"], each["beam"], each["condition_90"])
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
