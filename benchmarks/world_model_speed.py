"""How fast the world model dreams.

    python -m benchmarks.world_model_speed [--threads 2]

LSTM 32, K 5, z 8, a linear controller, no training. Prints, and writes
`benchmarks/results/world_model_speed.json`: dream steps a second (best of five, after compilation) for

- `own`: 1024 controllers x 200 steps, each with a world of its own (the memory takes the action in);
- `shared`: the same, where actions do not move the world and the controllers share it;
- `generation`: seconds for 64 candidates x 16 dreams x 200 steps, with a world each;
- `backtest`: steps a second of an agent of these sizes in the real backtest (act, fill, mark), batch 1, and
  how many times cheaper one of its own dreamed steps is.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

import models
from benchmarks.world_model_regimes import Market, walk
from models.world_model import controller, dream, mdn_rnn
from models.world_model.actions import Acts
from models.world_model.agent import WorldModelAgent
from models.world_model.dream import Imagination, State, World
from models.world_model.mdn_rnn import Memory

STEPS = 200


def imagination(*, shared: bool) -> Imagination:
    levels = (-1.0, -0.5, 0.0, 0.5, 1.0)
    acts = Acts("levels", (5,), (0,), levels) if shared else Acts("choices", (5,), (0,))
    memory = mdn_rnn.Shape(latents=8, payoffs=1, actions=0 if shared else 5, units=32, components=5)
    world = World(memory, controller.Shape(40, 1 if shared else 0, 0, acts.outputs), acts, shared)
    draw = np.random.default_rng(0)
    z, h, c = (draw.normal(size=(64, width)).astype(np.float32) for width in (8, 32, 32))
    starts = State(z, Memory(h, c), np.zeros((64, world.control.held), np.float32))
    return dream.imagination(
        world, mdn_rnn.initial(memory, 0), starts, temperature=1.0, payoff_scale=[0.01], cost=6.5e-4
    )


def seconds(model: Imagination, population: int, dreams: int) -> float:
    """Best of five."""
    params = np.random.default_rng(0).normal(size=(population, model.world.control.size))
    took = []
    for repeat in range(6):
        began = time.perf_counter()
        model.dream(params, dreams=dreams, steps=STEPS, seed=repeat).total.numpy()
        took.append(time.perf_counter() - began)
    return min(took[1:])


def backtest_seconds() -> tuple[WorldModelAgent, float]:
    """A hastily trained agent of the default sizes, and its seconds a step in the real backtest."""
    market = Market("regimes", 0, 2000)
    hasty = {"env_steps": 2000, "evaluation_steps": 200, "vae_epochs": 1, "rnn_epochs": 1, "generations": 1}
    agent = models.train("world_model", market.training_env(), hasty, seed=0)
    assert isinstance(agent, WorldModelAgent)
    env = market.env(market.test, num_envs=1, episode_bars=None)
    took = []
    for _ in range(2):
        began = time.perf_counter()
        steps = len(walk(agent, env, seed=0).rewards)
        took.append((time.perf_counter() - began) / steps)
    return agent, min(took)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    tf.config.threading.set_inter_op_parallelism_threads(arguments.threads)
    agent, real = backtest_seconds()
    dreamed = seconds(agent.imagination(), 64, 64) / (64 * 64 * STEPS)
    own, shared = imagination(shared=False), imagination(shared=True)
    result = {
        "command": f"python -m benchmarks.world_model_speed --threads {arguments.threads}",
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "own_steps_per_second": round(1024 * STEPS / seconds(own, 1024, 1)),
        "shared_steps_per_second": round(1024 * STEPS / seconds(shared, 1024, 1)),
        "backtest_steps_per_second": round(1 / real),
        "dream_step_cheaper_by": round(real / dreamed),
        "generation_seconds": round(seconds(own, 64, 16), 4),
    }
    print(json.dumps(result, indent=1))
    path = Path(__file__).parent / "results" / "world_model_speed.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
