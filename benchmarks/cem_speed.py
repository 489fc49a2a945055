"""How long a plan takes: the cross-entropy method and random shooting on a learned ensemble.

    python -m benchmarks.cem_speed [--runs 15] [--threads 2]

Ensemble of 5 with 5 particles (TS1), horizon 15, 5 iterations, 4 inputs and 1 action; populations of 200 and
1000 on 2 layers of 64 and 4 of 200. One compiled call, best and median of `runs`. mbrl-lib on the machine
that the bars were set on: 63 and 222 ms with 64 units, 238 and 1148 ms with 200; the bar is 1.5 times faster.
Throughput for a batch of 64 states, too. Wants a quiet machine.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.planned import write
from models import rng
from models.ensemble import agent as acting
from models.ensemble import decision, networks
from models.ensemble.config import Config
from models.ensemble.dream import Known, Limits, Model
from models.ensemble.networks import Shape
from models.planning.plan import Continuous

BARS = {"2x64": {200: 63.0, 1000: 222.0}, "4x200": {200: 238.0, 1000: 1148.0}}
NETWORKS = {"2x64": (64, 64), "4x200": (200, 200, 200, 200)}


def seconds(
    hidden: tuple[int, ...], samples: int, *, batch: int, runs: int, planner: str = "cem"
) -> list[float]:
    """Of each run of one decision for `batch` states, after compiling."""
    shape = Shape(4, Continuous((-1.0,), (1.0,)), 5, hidden, "silu")
    config = Config(
        horizon=15, samples=samples, iterations=5, elite_samples=samples // 10, propagation="ts1",
        hidden=hidden, planner="cem" if planner == "cem" else "shooting",
    )  # fmt: skip
    draw = np.random.default_rng(0)
    scaling = networks.measure(draw.normal(size=(100, 5)), 0.1 * draw.normal(size=(100, 5)), ends=False)
    model = Model(networks.initial(shape, 0), scaling)
    run = decision.decider(shape, acting.settings_of(config, shape.space), Known(), batch, compiled=True)
    observation = tf.constant(0.1 * draw.normal(size=(batch, 4)), tf.float32)
    start = tf.zeros((batch, 15, 1))
    limits = Limits(*map(tf.constant, acting.OPEN))
    times = []
    for turn in range(runs + 1):
        begun = time.perf_counter()
        run(model, observation, start, limits, rng.key(turn))[0].numpy()
        times.append(time.perf_counter() - begun)
    return times[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    started = time.perf_counter()
    figures: dict[str, Any] = {}
    for name, hidden in NETWORKS.items():
        for samples, bar in BARS[name].items():
            for planner in ("cem", "shooting"):
                times = 1e3 * np.array(
                    seconds(hidden, samples, batch=1, runs=arguments.runs, planner=planner)
                )
                figure = {"best_ms": float(times.min()), "median_ms": float(np.median(times))}
                if planner == "cem":
                    figure["mbrl_lib_over_median"] = bar / figure["median_ms"]
                figures[f"{planner}_{name}_{samples}"] = figure
                print(name, samples, planner, figure, flush=True)
    times = np.array(seconds((64, 64), 200, batch=64, runs=3))
    figures["cem_2x64_200_batch_64"] = {"plans_a_second": 64 / float(np.median(times))}
    write("cem_speed", arguments, figures, started)


if __name__ == "__main__":
    main()
