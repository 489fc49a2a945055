"""Speed of the trajectory transformer at the sizes of the literature's CPU figures.

    python -m benchmarks.trajectory_speed [--threads 2] [--quick]

V 100, embedding 64, 4 heads, 2 layers, 14 input tokens a transition. Training: batches of 32 x 140 tokens, in
tokens a second. Beam search of language models: 32 beams x 140 tokens. Planning: width 32, horizon 10, batch
1 and 32, cached against recomputed, and decisions a second. Best of several calls after the compiling one.
Writes benchmarks/results/trajectory_speed.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from models import rng
from models.planning.beam import Slot, Start, beam_search, by_log_probability
from models.trajectory import gpt, keyvalue, learning
from models.trajectory.data import Layout
from models.trajectory.plan import Plan, Scales, searcher

RESULTS = Path(__file__).parent / "results" / "trajectory_speed.json"
LAYOUT = Layout(observation=11, action=1, drawdown=False)  # 14 tokens with target and reward
TRANSITIONS = 10


def shape(transitions: int) -> gpt.Shape:
    return gpt.Shape(LAYOUT.slots, transitions, bins=100, width=64, heads=4, layers=2)


def best(run: Callable[[], Any], times: int) -> tuple[float, float]:
    """Seconds of the first call, which compiles, and of the fastest of the others."""
    seconds = []
    for _ in range(times + 1):
        start = time.perf_counter()
        tf.nest.map_structure(lambda x: x.numpy(), run())
        seconds.append(time.perf_counter() - start)
    return seconds[0], min(seconds[1:])


def training(*, dropout: float, times: int) -> dict[str, float]:
    """Tokens a second of updates, several in one call as in training."""
    size, number = shape(TRANSITIONS), 8
    draw = np.random.default_rng(0)
    inputs = draw.integers(0, 100, (number, 32, TRANSITIONS, LAYOUT.slots)).astype(np.int32)
    weight = np.ones(inputs.shape, np.float32)
    valid = np.ones((LAYOUT.slots, size.classes), bool)
    schedule = learning.Schedule(1e-3, 1e-4, 10, 1000, 0.1, 1.0)
    zeros = tf.zeros(gpt.size(size))
    learner = learning.Learner(tf.constant(gpt.initial(size, 0)), zeros, zeros, tf.constant(0))
    update = learning.updates(size, schedule, dropout)
    arguments = [tf.constant(x) for x in (inputs, inputs, weight, valid, rng.key(0))]
    first, seconds = best(lambda: update(learner, *arguments), times)
    return {"first_call_seconds": first, "tokens_per_second": number * 32 * 140 / seconds}


def language_beam(*, compiled: bool, times: int) -> dict[str, float]:
    """32 beams over 140 tokens by log-probability, ranked at every token."""
    size = shape(TRANSITIONS + 1)
    valid = np.ones((LAYOUT.slots, size.classes), bool)
    prefix_tokens = tf.zeros((1, 1, LAYOUT.slots), tf.int32)

    def run(flat: tf.Tensor, seed: tf.Tensor) -> Any:
        weights = gpt.unflatten(flat, size)
        prefix = keyvalue.read_prefix(weights, prefix_tokens, tf.constant([LAYOUT.slots]), valid, size)

        def step(cache: keyvalue.Cache, tokens: tf.Tensor, place: tf.Tensor) -> Any:
            return keyvalue.step(weights, prefix, cache, tokens, place, place % LAYOUT.slots, valid, size)

        return beam_search(
            step,
            Start(keyvalue.empty_cache(32, 140, size), prefix.logits, {"none": tf.zeros((1, 1))}),
            width=32,
            expand=32,
            steps=140,
            score=by_log_probability,
            seed=seed,
            pattern=[Slot("beam")] * LAYOUT.slots,
            measure=lambda measures, *_: measures,
            reorder=keyvalue.reorder,
        )

    traced = tf.function(run, jit_compile=compiled, autograph=False)
    flat, seed = tf.constant(gpt.initial(size, 0)), tf.constant(rng.key(0))
    first, seconds = best(lambda: traced(flat, seed), times)
    return {"first_call_seconds": first, "tokens_per_second": 32 * 140 / seconds}


def planning(batch: int, *, cached: bool, compiled: bool, times: int) -> dict[str, float]:
    """Decisions a second: width 32, horizon 10, 4 earlier transitions."""
    size = shape(TRANSITIONS + 4)
    plan = Plan(
        size,
        LAYOUT,
        horizon=10,
        width=32,
        expand=2,
        action_cdf=1.0,
        observation_top_k=1,
        score="return",
        likelihood_weight=0.0,
        quantile=None,
        discount=0.99,
        cached=cached,
    )
    draw = np.random.default_rng(0)
    tokens = draw.integers(0, 100, (batch, 5, LAYOUT.slots)).astype(np.int32)
    centres = [tf.constant(draw.normal(size=size.classes), tf.float32) for _ in range(2)]
    scales = Scales(
        tf.constant(np.ones((LAYOUT.slots, size.classes), bool)), *centres, tf.constant(1.0), tf.constant(0.0)
    )
    arguments = (
        tf.constant(gpt.initial(size, 0)),
        tf.constant(tokens),
        tf.fill([batch], 4 * LAYOUT.slots + LAYOUT.first_action),
        tf.fill([batch, 1], size.unknown),
        scales,
        tf.constant(rng.key(0)),
    )
    run = searcher(plan, compiled=compiled)
    first, seconds = best(lambda: run(*arguments), times)
    return {
        "first_call_seconds": first,
        "decision_seconds": seconds,
        "decisions_per_second": batch / seconds,
        "beam_tokens_per_second": batch * 32 * plan.steps / seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="only batch 1, fewer repetitions")
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    times = 2 if options.quick else 5
    figures: dict[str, dict[str, float]] = {}

    def note(name: str, found: dict[str, float]) -> None:
        figures[name] = found
        print(name, {key: round(value, 4) for key, value in found.items()}, flush=True)

    note("training", training(dropout=0.1, times=times))
    for compiled in (False, True):
        mode = "xla" if compiled else "graph"
        note(f"language_beam_{mode}", language_beam(compiled=compiled, times=times))
        note(f"plan_1_{mode}", planning(1, cached=True, compiled=compiled, times=times))
        if not options.quick:
            note(f"plan_32_{mode}", planning(32, cached=True, compiled=compiled, times=times))
    note("plan_1_recomputed_xla", planning(1, cached=False, compiled=True, times=2))
    if not options.quick:
        note("training_no_dropout", training(dropout=0.0, times=times))
        note("plan_32_recomputed_xla", planning(32, cached=False, compiled=True, times=1))
    result = {
        "command": f"python -m benchmarks.trajectory_speed --threads {options.threads}"
        + (" --quick" if options.quick else ""),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "seed": 0,
        "bars": {
            "training": "at least 95 000 tokens a second",
            "language_beam": "at least 25 000 tokens a second",
            "plan_cached_over_recomputed": "at least 5",
        },
        "figures": figures,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
