"""How long a plan takes: the cross-entropy method and random shooting on a learned ensemble.

    python -m benchmarks.cem_speed [--runs 15] [--threads 2] [--mbrl PYTHON]

Ensemble of 5 with 5 particles in all (TS1), horizon 15, 5 iterations, 4 inputs and 1 action; populations of
200 and 1000 on 2 layers of 64 and 4 of 200. One compiled call, best and median of `runs`. With `--mbrl` (a
Python that has torch and mbrl: `python -m venv other && other/bin/pip install torch mbrl`) mbrl-lib plans in
turns with us, on the same threads; without it its figures are those of the machine the bars were set on, 63
and 222 ms with 64 units, 238 and 1148 ms with 200. The bar is 1.5 times faster. Throughput for a batch of 64
states, too. Wants a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from pathlib import Path
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


def theirs(python: str, hidden: tuple[int, ...], samples: int, *, runs: int, threads: int) -> list[float]:
    """Seconds of each run of mbrl-lib's planner, by another interpreter."""
    script = str(Path(__file__).parent / "cem_speed_mbrl.py")
    sizes = map(str, (len(hidden), hidden[0], samples, runs, threads))
    found = subprocess.run([python, script, *sizes], check=True, capture_output=True, text=True)
    times: list[float] = json.loads(found.stdout.splitlines()[-1])
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--mbrl", metavar="PYTHON", help="an interpreter with torch and mbrl")
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
                    other = bar
                    if arguments.mbrl:
                        measured = theirs(
                            arguments.mbrl, hidden, samples, runs=arguments.runs, threads=arguments.threads
                        )
                        other = 1e3 * float(np.median(measured))
                        figure["mbrl_lib_best_ms"] = 1e3 * min(measured)
                    figure["mbrl_lib_median_ms"] = other
                    figure["times_faster"] = other / figure["median_ms"]
                figures[f"{planner}_{name}_{samples}"] = figure
                print(name, samples, planner, figure, flush=True)
    for planner in ("cem", "shooting"):
        times = np.array(seconds((64, 64), 200, batch=64, runs=3, planner=planner))
        figures[f"{planner}_2x64_200_batch_64"] = {"plans_a_second": 64 / float(np.median(times))}
    write("cem_speed", arguments, figures, started)


if __name__ == "__main__":
    main()
