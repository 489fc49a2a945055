"""Searches a second of `models.planning.mcts`, compiled, at the sizes people compare.

    python -m benchmarks.mcts [--seconds S] [--rounds N]

50 simulations, 5 actions, 64-unit latents, dynamics and prediction networks of two layers of 128 units.
Wall-clock, one call at a time, best of several rounds; prints the figures and writes them to
benchmarks/results/mcts.json. Wants a quiet machine.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from models import rng
from models.planning import mcts

RESULTS = Path(__file__).parent / "results" / "mcts.json"
LATENT, WIDTH, ACTIONS, SIMULATIONS, SEED = 64, 128, 5, 50, 0
BARS = {
    "puct_1": "at least 1600 a second", "puct_128": "at least 7500 a second",
    "gumbel_1": "at least 1000 a second", "gumbel_128": "at least 9000 a second",
}  # fmt: skip


def weights(seed: int) -> dict[str, tf.Tensor]:
    """Random weights of both networks."""
    draw = np.random.default_rng(seed)
    sizes = {
        "dynamics": (LATENT + ACTIONS, WIDTH, WIDTH, LATENT + 1),
        "prediction": (LATENT, WIDTH, WIDTH, ACTIONS + 1),
    }
    return {
        f"{name}.{layer}": tf.constant(draw.normal(0, i**-0.5, (i, o)).astype(np.float32))
        for name, widths in sizes.items()
        for layer, (i, o) in enumerate(itertools.pairwise(widths))
    }


def apply(params: dict[str, tf.Tensor], name: str, x: tf.Tensor) -> tf.Tensor:
    x = tf.nn.relu(x @ params[f"{name}.0"])
    x = tf.nn.relu(x @ params[f"{name}.1"])
    return x @ params[f"{name}.2"]


def recurrent(params: Any, seed: Any, action: tf.Tensor, latent: tf.Tensor) -> tuple[mcts.Step, tf.Tensor]:
    out = apply(params, "dynamics", tf.concat([latent, tf.one_hot(action, ACTIONS)], axis=-1))
    latent = tf.sigmoid(out[:, :LATENT])
    said = apply(params, "prediction", latent)
    return mcts.Step(tf.tanh(out[:, LATENT]), said[:, :ACTIONS], tf.tanh(said[:, ACTIONS])), latent


def searcher(policy: Any) -> Any:
    def run(params: Any, latent: tf.Tensor, seed: Any) -> tuple[tf.Tensor, tf.Tensor]:
        said = apply(params, "prediction", latent)
        root = mcts.Root(said[:, :ACTIONS], tf.tanh(said[:, ACTIONS]), latent)
        found = policy(root, recurrent, params=params, simulations=SIMULATIONS, seed=seed, discount=0.997)
        return found.action, found.action_weights

    return tf.function(run, jit_compile=True, autograph=False)


def rate(run: Any, batch: int, seconds: float, rounds: int) -> dict[str, float]:
    """Roots a second: the best and the median of `rounds` stretches of `seconds`."""
    params = weights(SEED)
    latent = tf.constant(np.random.default_rng(SEED).random((batch, LATENT), np.float32))
    seeds = [tf.constant(rng.key(i)) for i in range(16)]
    start = time.perf_counter()
    run(params, latent, seeds[0])[0].numpy()
    compiling = time.perf_counter() - start
    rates = []
    for _ in range(rounds):
        calls, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            run(params, latent, seeds[calls % 16])[0].numpy()
            calls += 1
        rates.append(calls * batch / (time.perf_counter() - start))
    return {"best": max(rates), "median": float(np.median(rates)), "compile_seconds": compiling}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    policies = {
        "puct": functools.partial(mcts.muzero_policy, temperature=0.0),
        "gumbel": mcts.gumbel_muzero_policy,
    }
    figures = {
        f"{name}_{batch}": rate(searcher(policy), batch, options.seconds, options.rounds)
        for name, policy in policies.items()
        for batch in (1, 16, 128)
    }
    for name, figure in figures.items():
        print(f"{name:12s} {figure['best']:9.0f} a second (median {figure['median']:.0f})")
    result = {
        "command": "python -m benchmarks.mcts",
        "seed": SEED,
        "sizes": {"simulations": SIMULATIONS, "actions": ACTIONS, "latent": LATENT, "width": WIDTH},
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "bars": BARS,
        "figures": figures,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
