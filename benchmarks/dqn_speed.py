"""What a training of the Q-network costs at the size of a trading job.

    python -m benchmarks.dqn_speed

40 features, 5 actions, 16 sub-environments that cost next to nothing, the default configuration with
20 000 real steps, one thread. Prints processor seconds, and milliseconds of one update as a plain graph and
under XLA. Writes `benchmarks/results/dqn_speed.json`. Wants a quiet machine.
"""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv, utils

import models
from models import runtime

RESULT = Path(__file__).parent / "results" / "dqn_speed.json"
STEPS, FEATURES, CALLS = 20_000, 40, 40


class Noise(VectorEnv):  # type: ignore[misc]  # gymnasium is untyped here
    """Shows noise and pays the first feature times the exposure; episodes of 250 steps."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012, gymnasium's own way

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.single_observation_space = spaces.Box(-np.inf, np.inf, (FEATURES,), np.float32)
        self.single_action_space = spaces.Discrete(5)
        self.observation_space = utils.batch_space(self.single_observation_space, num_envs)
        self.action_space = utils.batch_space(self.single_action_space, num_envs)

    def _show(self) -> np.ndarray:
        self.shown = self.draw.standard_normal((self.num_envs, FEATURES), np.float32)
        return self.shown

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.draw, self.count = np.random.default_rng(seed), 0
        return self._show(), {}

    def step(self, actions: np.ndarray) -> Any:
        reward = 1e-3 * self.shown[:, 0] * (actions - 2)
        self.count += 1
        over = np.full(self.num_envs, self.count % 250 == 0)
        shown = self._show()
        return shown, reward, np.zeros(self.num_envs, bool), over, {"final_obs": shown}


def _training(compiled: bool) -> float:
    started = time.process_time()
    models.train("dqn", Noise(16), {"env_steps": STEPS, "compile": compiled}, seed=0)
    return time.process_time() - started


def _update(compiled: bool, hidden: tuple[int, ...], batch: int) -> float:
    """Milliseconds of one of 16 updates in a call, the best of `CALLS` calls."""
    import tensorflow as tf

    from models.dqn import losses, networks

    shape = networks.Shape(FEATURES, hidden, "relu", (5,))
    weights, zeros = tf.constant(networks.initial(shape, 0)), tf.zeros(shape.size)
    learner = losses.Learner(weights, weights, zeros, zeros, tf.constant(0))
    draw = np.random.default_rng(0)
    floats = [
        draw.standard_normal((16, batch, *rest), np.float32)
        for rest in ((FEATURES,), (), (), (FEATURES,), ())
    ]
    action = draw.integers(0, 5, (16, batch, 1)).astype(np.int32)
    data = losses.Batch(*map(tf.constant, (floats[0], action, *floats[1:])))
    rates = losses.Rates(*map(tf.constant, (1e-3, 10.0, 1.0, 0.02)), tf.constant(1))
    function = losses.updates(shape, compiled=compiled)
    times = []
    for _ in range(CALLS):
        started = time.perf_counter()
        learner = function(learner, data, rates).learner
        learner.online.numpy()
        times.append(time.perf_counter() - started)
    return round(min(times) / 16 * 1e3, 4)


def main() -> None:
    """Measures and writes."""
    runtime.single_thread()
    update_ms = {
        f"{'x'.join(map(str, hidden))}, batch {batch}": {
            name: _update(compiled, hidden, batch) for name, compiled in (("graph", False), ("xla", True))
        }
        for hidden, batch in (((64, 64), 64), ((128, 128), 64), ((256, 256), 128))
    }
    result = {
        "command": "python -m benchmarks.dqn_speed",
        "train_cpu_seconds": {name: round(_training(name == "xla"), 2) for name in ("graph", "xla")},
        "env_steps": STEPS,
        "features": FEATURES,
        "update_ms": update_ms,
        "versions": {"gymnasium": gymnasium.__version__, "numpy": np.__version__},
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
    }
    print(json.dumps(result, indent=1))
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, sort_keys=True, indent=1) + "\n")


if __name__ == "__main__":
    main()
