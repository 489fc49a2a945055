"""What the scripts about planning share: rolling agents through episodes, and writing figures."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from models.agent import Agent

RESULTS = Path(__file__).parent / "results"

NETWORK: dict[str, Any] = {
    "hidden": (64, 64),
    "interactions": False,
    "reward_share": 0.0,
    "learning_rate": 1e-3,
    "weight_decay": 1e-4,
}
"""Members for worlds that are loud and clear, where the defaults are for faint ones."""


class Walk(NamedTuple):
    """N environments stepped side by side, until all have ended or for a number of steps."""

    rewards: np.ndarray  # [T, N] zero after an end
    observations: np.ndarray  # [T, N, D] that were decided on
    actions: np.ndarray  # [T, N, ...]
    planned: np.ndarray  # [T, N, H] planned rewards, nothing if the agent does not say
    said: dict[str, np.ndarray]  # [T, N] of everything that it says with one number a path


class SideBySide:
    """Environments of one path each, stepped as one, so that an agent decides for all of them at once."""

    def __init__(self, envs: list[Any]) -> None:
        self.envs, self.num_envs = envs, len(envs)

    def reset(self, *, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
        return np.concatenate([env.reset(seed=seed)[0] for env in self.envs]), {}

    def step(self, action: np.ndarray) -> tuple[Any, ...]:
        moved = [env.step(action[i : i + 1]) for i, env in enumerate(self.envs)]
        return (*(np.concatenate(parts) for parts in list(zip(*moved, strict=True))[:4]), {})


def walk(agent: Agent, env: Any, *, seed: int, steps: int) -> Walk:
    """Follows `agent` for at most `steps` steps of each environment's first episode."""
    observation, _ = env.reset(seed=seed)
    state, alive = agent.initial_state(env.num_envs), np.ones(env.num_envs, bool)
    columns: list[list[np.ndarray]] = [[] for _ in Walk._fields[:-1]]
    said: dict[str, list[np.ndarray]] = {}
    for step in range(steps):
        decision = agent.act(observation, state, seed=seed * 100_003 + step)
        state = decision.state
        following, reward, terminated, truncated, _ = env.step(decision.action)
        planned = decision.info.get("planned_rewards", np.zeros((env.num_envs, 0)))
        for name, values in decision.info.items():
            if np.shape(values) == (env.num_envs,):
                said.setdefault(name, []).append(values)
        row = (np.where(alive, reward, 0.0), observation.copy(), decision.action, planned)
        for column, value in zip(columns, row, strict=True):
            column.append(value)
        alive &= ~(terminated | truncated)
        observation = following
        if not alive.any():
            break
    return Walk(
        *(np.stack(column) for column in columns),
        said={name: np.stack(values) for name, values in said.items()},
    )


def bias_by_step(walked: Walk) -> list[dict[str, float]]:
    """Planned minus realised reward, by steps ahead: what was planned at t for t + h against what came then.

    The plan is renewed at every step, so from the second step on this holds both the model's error and
    the change of mind.
    """
    figures = []
    for ahead in range(walked.planned.shape[2]):
        last = len(walked.rewards) - ahead
        error = walked.planned[:last, :, ahead] - walked.rewards[ahead:]
        figures.append({"bias": float(error.mean()), "rmse": float(np.sqrt(np.square(error).mean()))})
    return figures


def write(name: str, arguments: Any, figures: dict[str, Any], started: float, *, script: str = "") -> None:
    """Prints the figures and writes them to `benchmarks/results/<name>.json`; `script` if named otherwise."""
    options = ""
    for key, value in vars(arguments).items():
        words = " ".join(map(str, value)) if isinstance(value, list) else str(value)
        options += f" --{key.replace('_', '-')} {words}"
    result = {
        "command": f"python -m benchmarks.{script or name}{options}",
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "seconds": round(time.perf_counter() - started, 1),
        "figures": figures,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")
    json.dump(figures, sys.stdout, indent=2)
    print()
