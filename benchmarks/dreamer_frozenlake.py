"""Does Dreamer solve FrozenLake 4x4 (deterministic), the second rung of RLlib's ladder for DreamerV3?

    python -m benchmarks.dreamer_frozenlake [--seeds 0 1 2 3 4]

The observation is the place as a one-hot vector. The bar: return 1 in greedy evaluation within 30 000 steps,
for every seed, with the final weights. The reward is one at the goal and nothing anywhere else, so a policy
drawn uniformly sees it in about 1.4 % of its episodes. Prints, and writes
`benchmarks/results/dreamer_frozenlake.json`. One process, one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "dreamer_frozenlake.json"
CONFIG: dict[str, Any] = {
    "env_steps": 12_000,
    "warmup_steps": 1_000,
    "model_first": 0.0,
    "annealing": 0.0,
    "train_ratio": 24.0,
    "batch_size": 16,
    "batch_length": 16,
    "size": "tiny",
    "learning_rate": 1e-3,
    "discount": 0.97,
    "entropy": 3e-3,
    "reward_scale": 1.0,
    "log_steps": 1_000,
}
LIMIT = 30_000


def lake(count: int) -> Any:
    """`count` frozen lakes whose places are shown as one-hot vectors."""
    import gymnasium
    import numpy as np
    from gymnasium import spaces

    class OneHot(gymnasium.ObservationWrapper):  # type: ignore[misc]
        """A Discrete observation as a unit vector."""

        def __init__(self, env: Any) -> None:
            super().__init__(env)
            self.number = int(env.observation_space.n)
            self.observation_space = spaces.Box(0.0, 1.0, (self.number,), np.float32)

        def observation(self, observation: int) -> Any:
            return np.eye(self.number, dtype=np.float32)[observation]

    def make() -> Any:
        return OneHot(gymnasium.make("FrozenLake-v1", map_name="4x4", is_slippery=False))

    return gymnasium.vector.SyncVectorEnv([make] * count)


def evaluate(agent: Any) -> tuple[float, int]:
    """Return and length of the greedy episode; there is one only, since nothing is random."""
    env = lake(1)
    observation, _ = env.reset(seed=0)
    state, total, length = agent.initial_state(1), 0.0, 0
    while True:
        action, state, _ = agent.act(observation, state, seed=length)
        observation, reward, terminated, truncated, _ = env.step(action)
        total, length = total + float(reward[0]), length + 1
        if terminated[0] or truncated[0]:
            return total, length


def run(seed: int) -> dict[str, Any]:
    """Trains and evaluates one seed."""
    import models

    wall, cpu = time.perf_counter(), time.process_time()
    curve: list[tuple[int, float]] = []

    def log(step: int, metrics: dict[str, float]) -> None:
        curve.append((step, round(metrics.get("train/episode_return", 0.0), 3)))
        told = ("train/episode_return", "loss/reward", "loss/decoder", "model/divergence", "policy/entropy")
        line = ", ".join(f"{name} {metrics[name]:.3f}" for name in told if name in metrics)
        print(f"  {step} steps, {time.process_time() - cpu:.0f} s: {line}", flush=True)

    agent: Any = models.train("dreamer", lake(4), CONFIG, seed=seed, log=log)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    reached, length = evaluate(agent)
    return {
        "seed": seed,
        "return": reached,
        "length": length,
        "env_steps": agent.counters["env_steps"],
        "updates": agent.counters["updates"],
        "cpu_seconds": round(cpu, 1),
        "wall_seconds": round(wall, 1),
        "training_curve": curve,
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
        print({name: value for name, value in rows[-1].items() if name != "training_curve"}, flush=True)
    result = {
        "command": f"python -m benchmarks.dreamer_frozenlake --seeds {' '.join(map(str, seeds))}",
        "bar": {"return": 1.0, "env_steps": LIMIT, "weights": "final"},
        "config": CONFIG,
        "rows": rows,
        "passed": sum(row["return"] == 1.0 and row["env_steps"] <= LIMIT for row in rows),
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, sort_keys=True, indent=1) + "\n")
    print(f"{result['passed']} of {len(rows)} seeds reach the goal")


if __name__ == "__main__":
    main()
