"""How fast Dreamer replays, dreams, learns and decides.

    python -m benchmarks.dreamer_speed [--threads 2] [--repeats 10]

At the sizes that other systems are measured with (200 deterministic units, 30 x 32 stochastic, width 200, 16
sequences of 64 steps, 15 imagined steps): replayed frames a second through one training step of the world
model (losses, gradients, optimiser), imagined steps a second without gradient, and the whole update. At the
default size: the whole update, the first one with its compilation, and a decision of a single row. Medians.
Prints, and writes `benchmarks/results/dreamer_speed.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

RESULT = Path(__file__).parent / "results" / "dreamer_speed.json"
BARS = {"frames_per_second": 6_000, "imagined_per_second": 55_000, "first_step_seconds": 10, "memory_gb": 3}
INPUTS, CHOICES = 24, 5


def median_seconds(call: Callable[[], Any], repeats: int) -> float:
    """The median time of a call that returns a tensor, after two to warm up."""
    took = []
    for repeat in range(repeats + 2):
        began = time.perf_counter()
        call().numpy()
        if repeat >= 2:
            took.append(time.perf_counter() - began)
    return float(np.median(took))


def make(config: Any) -> tuple[Any, Any]:
    """A learner and a batch of noise for it."""
    from gymnasium import spaces

    from models.agent import Spaces
    from models.dreamer import learner, networks
    from models.dreamer.rssm import Latent

    seen = Spaces(spaces.Box(-np.inf, np.inf, (INPUTS,), np.float32), spaces.Discrete(CHOICES))
    made = learner.Learner(config, networks.build(config, seen, seed=0))
    draw = np.random.default_rng(0)
    shape, sizes = (config.batch_size, config.batch_length), config.sizes
    none = np.zeros(shape, bool)
    batch = learner.Batch(
        draw.normal(size=(*shape, INPUTS)).astype(np.float32),
        np.eye(CHOICES, dtype=np.float32)[draw.integers(0, CHOICES, shape)],
        draw.normal(size=shape).astype(np.float32),
        none,
        none,
        none,
        Latent(
            np.zeros((shape[0], sizes.deterministic), np.float32),
            np.zeros((shape[0], sizes.stochastic), np.float32),
        ),
    )
    return made, batch


def standard(repeats: int) -> dict[str, float]:
    """Figures at the sizes of the bar."""
    import tensorflow as tf

    from models import rng
    from models.dreamer import losses
    from models.dreamer.config import Config
    from models.dreamer.optimiser import LaProp
    from models.dreamer.rssm import Latent

    config = Config(
        size="XS", deterministic=200, units=200, groups=30, classes=32, batch_size=16, batch_length=64
    )
    made, batch = make(config)
    variables = made.networks.world.trainable_variables
    optimiser = LaProp()
    optimiser.build(variables)
    names = ("decoder", "reward", "continue", "dynamics", "representation")
    weights = {name: made.loss_weights()[name] for name in names}

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def world_step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            parts, _ = made.world_losses(batch, made.observe(batch, rng.key(0)))
            loss = losses.total(parts, weights)
        gradients = tape.gradient(loss, [variable.value for variable in variables])
        optimiser.apply_gradients(zip(gradients, variables, strict=True))
        return loss

    starts = config.batch_size * config.batch_length
    latent = Latent(tf.zeros((starts, 200)), tf.zeros((starts, 960)))

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def dream() -> tf.Tensor:
        return tf.reduce_sum(made.dream(latent, rng.key(0))[0][-1])

    began = time.perf_counter()
    made.update(batch, rng.key(0))
    first = time.perf_counter() - began
    return {
        "frames_per_second": round(starts / median_seconds(world_step, repeats)),
        "imagined_per_second": round(starts * config.horizon / median_seconds(dream, repeats)),
        "update_seconds": round(
            median_seconds(lambda: made.update(batch, rng.key(1)).deterministic, repeats), 3
        ),
        "first_step_seconds": round(first, 2),
        "memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def default(repeats: int) -> dict[str, float]:
    """Figures at the default configuration."""
    from gymnasium import spaces

    from models import rng
    from models.agent import Spaces
    from models.dreamer import agent
    from models.dreamer.config import Config

    config = Config()
    made, batch = make(config)
    began = time.perf_counter()
    made.update(batch, rng.key(0))
    first = time.perf_counter() - began
    seen = Spaces(spaces.Box(-np.inf, np.inf, (INPUTS,), np.float32), spaces.Discrete(CHOICES))
    trader = agent.DreamerAgent(config, seen, made.networks, reward_scale=1.0, counters={})
    observation, state = np.zeros((1, INPUTS), np.float32), trader.initial_state(1)
    began = time.perf_counter()
    trader.act(observation, state, seed=0)
    first_decision = time.perf_counter() - began
    began = time.perf_counter()
    for bar in range(300):
        decision = trader.act(observation, state, seed=bar)
        state = decision.state
    decide = (time.perf_counter() - began) / 300
    many, states = np.zeros((300, INPUTS), np.float32), trader.initial_state(300)
    forecasts = []
    for seed in range(3):  # the first one compiles
        began = time.perf_counter()
        trader.forecast(many, states, None, horizon=10, samples=64, seed=seed)
        forecasts.append(time.perf_counter() - began)
    return {
        "update_seconds": round(
            median_seconds(lambda: made.update(batch, rng.key(1)).deterministic, repeats), 4
        ),
        "model_update_seconds": round(
            median_seconds(lambda: made.model(batch, rng.key(1)).deterministic, repeats), 4
        ),
        "forecast_300_64_10_seconds": round(min(forecasts), 2),
        "first_step_seconds": round(first, 2),
        "first_decision_seconds": round(first_decision, 2),
        "decision_milliseconds": round(1e3 * decide, 2),
    }


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=10)
    arguments = parser.parse_args()
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    tf.config.threading.set_inter_op_parallelism_threads(arguments.threads)
    result = {
        "command": f"python -m benchmarks.dreamer_speed --threads {arguments.threads} "
        f"--repeats {arguments.repeats}",
        "bar": BARS,
        "default": default(arguments.repeats),
        "standard": standard(arguments.repeats),
        "load": round(os.getloadavg()[0], 1),
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
    }
    print(json.dumps(result, indent=1))
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, sort_keys=True, indent=1) + "\n")


if __name__ == "__main__":
    main()
