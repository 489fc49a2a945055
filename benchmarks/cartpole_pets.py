"""PETS on a continuous cartpole.

    python -m benchmarks.cartpole_pets [--seeds 5] [--trials 10]

The task: the cart and pole of gymnasium's CartPole-v1 (its masses, lengths, Euler steps of 0.02 s and limits:
2.4 from the middle, 12 degrees), with a force of 10 N times an action in [-1, 1] instead of two choices; a
reward of 1 a step until a limit is passed, at most 200 steps. As in mbrl-lib's example the reward and the
end are known functions of the state and the dynamics are learned; the agent starts from 200 random steps
and learns as it goes.

Bar: a return of at least 190 held from trial 6 on, for at least 4 of 5 seeds, under 4 minutes a seed.
"""

from __future__ import annotations

import argparse
import math
import time
from typing import Any

import gymnasium
import numpy as np
import tensorflow as tf
from gymnasium.vector import SyncVectorEnv

from benchmarks.planned import NETWORK, write
from models import runtime
from models.ensemble.config import Config
from models.ensemble.dream import Known
from models.ensemble.train import train

EDGE, TILT, STEPS = 2.4, 12 * 2 * math.pi / 360, 200
RANDOM_STEPS = 200


class ContinuousCartPole(gymnasium.Env):  # type: ignore[misc]
    """See the module. Keeps the returns of its finished episodes in `returns`."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self) -> None:
        self.returns: list[int] = []
        self.state = np.zeros(4)
        self.count = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.state, self.count = self.np_random.uniform(-0.05, 0.05, 4), 0
        return self.state.astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        _, speed, angle, turning = self.state
        force = 10.0 * float(np.clip(action[0], -1.0, 1.0))
        # Barto, Sutton and Anderson 1983, with gymnasium's constants: cart 1 kg, pole 0.1 kg and 2 x 0.5 m.
        push = (force + 0.05 * turning**2 * math.sin(angle)) / 1.1
        turn = (9.8 * math.sin(angle) - math.cos(angle) * push) / (
            0.5 * (4.0 / 3.0 - 0.1 * math.cos(angle) ** 2 / 1.1)
        )
        move = push - 0.05 * turn * math.cos(angle) / 1.1
        self.state = self.state + 0.02 * np.array([speed, move, turning, turn])
        self.count += 1
        fallen = abs(self.state[0]) > EDGE or abs(self.state[2]) > TILT
        over = self.count == STEPS and not fallen
        if fallen or over:
            self.returns.append(self.count)
        return self.state.astype(np.float32), 1.0, bool(fallen), over, {}


def fallen(x: tf.Tensor) -> tf.Tensor:
    return (tf.abs(x[..., 0]) > EDGE) | (tf.abs(x[..., 2]) > TILT)


def alive(x: tf.Tensor, action: tf.Tensor, arrived: tf.Tensor) -> tf.Tensor:
    return 1.0 - tf.cast(fallen(arrived), tf.float32)


CONFIG: dict[str, Any] = {
    **NETWORK,
    "warmup_steps": RANDOM_STEPS,
    "fit_steps": 50,
    "epsilon": 0.0,
    "hidden": (64, 64, 64),
    "batch_size": 64,
    "updates_per_round": 32,
    "max_rounds": 8,
    "patience": 3,
    "holdout_rows": 128,
    "planner": "cem",
    "horizon": 15,
    "samples": 200,
    "elite_samples": 20,
    "iterations": 5,
    "propagation": "ts1",
}


def trials(seed: int, number: int) -> list[int]:
    """Returns of the first `number` episodes that began after the random steps."""
    env = ContinuousCartPole()
    before: list[int] = []

    def count(step: int, _: dict[str, float]) -> None:
        if step <= RANDOM_STEPS:
            before[:] = [len(env.returns)]

    steps = RANDOM_STEPS + STEPS * number
    config = Config(**CONFIG, env_steps=steps, log_steps=RANDOM_STEPS)
    train(SyncVectorEnv([lambda: env]), config, seed=seed, log=count, known=Known(alive, fallen))
    return env.returns[before[0] + 1 :][:number]  # the episode that was running at the change is left out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=10)
    arguments = parser.parse_args()
    runtime.single_thread()
    started = time.perf_counter()
    rows = []
    for seed in range(arguments.seeds):
        begun = time.perf_counter()
        returns = trials(seed, arguments.trials)
        held = min(returns[5:]) >= 190 if len(returns) > 5 else None
        rows.append({"seed": seed, "returns": returns, "held": held, "seconds": time.perf_counter() - begun})
        print(rows[-1], flush=True)
    held = sum(row["held"] is True for row in rows)
    write("cartpole_pets", arguments, {"seeds": rows, "held": held, "of": len(rows)}, started)


if __name__ == "__main__":
    main()
