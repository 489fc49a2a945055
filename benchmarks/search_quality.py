"""How soon the tree search finds the best action where it is known: random tabular problems.

    python -m benchmarks.search_quality [--problems 1000]

5 states, 3 actions, 6 steps, discount 0.9, normal rewards, certain transitions: 1 092 nodes a whole tree,
uniform priors. Against brute force: the share of optimal first actions, the regret of the others, and how
far the root's best q and its value are from the optimum. Leaves are worth nothing, or what a critic of random
play says; the action is the search's own, or the first of the best line in its tree. Then the same with
random transitions, chance nodes and leaves of zero. Prints the figures and writes
benchmarks/results/search_quality.json. About three minutes on one core.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from models import rng, runtime
from models.planning import chance, mcts, selection
from models.planning import tree as trees

RESULTS = Path(__file__).parent / "results" / "search_quality.json"
STATES, ACTIONS, HORIZON, DISCOUNT, SEED = 5, 3, 6, 0.9, 0
SIMULATIONS = (25, 50, 100, 200, 400)
POLICIES = {
    "PUCT, c 1.25": functools.partial(
        mcts.muzero_policy, dirichlet_fraction=0.0, temperature=0.0, qtransform=selection.by_tree
    ),
    "PUCT, c 2": functools.partial(
        mcts.muzero_policy, dirichlet_fraction=0.0, temperature=0.0, qtransform=selection.by_tree, c_init=2.0
    ),
    "Gumbel, q by siblings": functools.partial(mcts.gumbel_muzero_policy, gumbel_scale=0.0),
    "Gumbel, q by tree": functools.partial(
        mcts.gumbel_muzero_policy,
        gumbel_scale=0.0,
        qtransform=functools.partial(selection.completed_by_mixed_value, whole_tree=True),
    ),
}


class Problems:
    """B random problems; `moves [B, S, A, S]` are the chances of the next state."""

    def __init__(self, batch: int, *, certain: bool, critic: bool) -> None:
        draw = np.random.default_rng(SEED)
        self.batch = batch
        self.reward = draw.normal(size=(batch, STATES, ACTIONS)).astype(np.float32)
        if certain:
            self.following = draw.integers(0, STATES, (batch, STATES, ACTIONS)).astype(np.int32)
            self.moves = np.eye(STATES, dtype=np.float32)[self.following]
        else:
            self.moves = draw.dirichlet(np.ones(STATES), (batch, STATES, ACTIONS)).astype(np.float32)
        self.value = np.zeros((HORIZON + 1, batch, STATES), np.float32)
        for step in reversed(range(HORIZON)) if critic else ():
            self.value[step] = self._ahead(self.value[step + 1]).mean(axis=-1)

    def _ahead(self, value: np.ndarray) -> np.ndarray:
        ahead: np.ndarray = self.reward + DISCOUNT * np.einsum("bsat,bt->bsa", self.moves, value)
        return ahead

    def optimum(self) -> np.ndarray:
        """Q [B, A] of the first action from state 0, by brute force over all that can follow."""
        value = np.zeros((self.batch, STATES))
        for _ in range(HORIZON):
            q = self._ahead(value)
            value = q.max(axis=-1)
        best: np.ndarray = q[:, 0]
        return best

    def root(self, *more: tf.Tensor) -> mcts.Root:
        place = tf.zeros(self.batch, tf.int32)
        value = tf.constant(self.value[0, :, 0])
        return mcts.Root(tf.zeros((self.batch, ACTIONS)), value, (place, place, *more))

    def arrived(self, reward: tf.Tensor, state: tf.Tensor, steps: tf.Tensor) -> mcts.Step:
        value = tf.gather_nd(self.value, tf.stack([steps, tf.range(self.batch), state], axis=1))
        more = tf.cast(steps < HORIZON, tf.float32)
        return mcts.Step(reward, tf.zeros((self.batch, ACTIONS)), value, DISCOUNT * more)

    def recurrent(self, params: Any, seed: Any, action: tf.Tensor, embedding: Any) -> tuple[mcts.Step, Any]:
        state, steps = embedding
        where = tf.stack([tf.range(self.batch), state, action], axis=1)
        state, steps = tf.gather_nd(self.following, where), steps + 1
        return self.arrived(tf.gather_nd(self.reward, where), state, steps), (state, steps)

    def decide(
        self, params: Any, seed: Any, action: tf.Tensor, embedding: Any
    ) -> tuple[chance.Afterstate, Any]:
        state, steps, _ = embedding
        where = tf.stack([tf.range(self.batch), state, action], axis=1)
        pay = tf.gather_nd(self.reward, where)
        return chance.Afterstate(tf.gather_nd(np.log(self.moves), where), pay), (state, steps, pay)

    def happen(self, params: Any, seed: Any, outcome: tf.Tensor, embedding: Any) -> tuple[mcts.Step, Any]:
        _, steps, pay = embedding
        return self.arrived(pay, outcome, steps + 1), (outcome, steps + 1, tf.zeros(self.batch))


def judged(problems: Problems, action: np.ndarray, q: np.ndarray, value: np.ndarray) -> dict[str, float]:
    best = problems.optimum()
    regret = best.max(axis=1) - best[np.arange(problems.batch), action]
    return {
        "optimal": float((regret < 1e-5).mean()),
        "regret": float(regret.mean()),
        "gap_of_best_q": float(np.abs(best.max(axis=1) - q.max(axis=1)).mean()),
        "gap_of_root_value": float(np.abs(best.max(axis=1) - value).mean()),
    }


def curve(name: str, problems: Problems, policy: Any, *, certain: bool) -> dict[str, Any]:
    """One row of figures for each number of simulations."""
    rows: dict[str, Any] = {}
    for simulations in SIMULATIONS:
        run = tf.function(
            functools.partial(policy, simulations=simulations), jit_compile=True, autograph=False
        )
        found = run(seed=rng.key(SEED))
        q, value = found.root.q.numpy()[:, :ACTIONS], found.root.value.numpy()
        row = {"search": judged(problems, found.action.numpy(), q, value)}
        if certain:
            along = trees.best_q(found.tree).numpy()
            row["best line"] = judged(problems, along.argmax(axis=1), along, along.max(axis=1))
        rows[str(simulations)] = row
        print(f"{name:44s} {simulations:4d} " + "  ".join(
            f"{way}: optimal {figure['optimal']:.3f} regret {figure['regret']:.4f} "
            f"gap {figure['gap_of_best_q']:.2f}" for way, figure in row.items()
        ), flush=True)  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--problems", type=int, default=1000)
    options = parser.parse_args()
    runtime.single_thread()
    results: dict[str, Any] = {}
    for leaves in ("zero", "critic"):
        problems = Problems(options.problems, certain=True, critic=leaves == "critic")
        for name, policy in POLICIES.items():
            ready = functools.partial(policy, problems.root(), problems.recurrent, max_depth=HORIZON)
            results[f"{name}, leaves {leaves}"] = curve(
                f"{name}, leaves {leaves}", problems, ready, certain=True
            )
    problems = Problems(options.problems, certain=False, critic=False)
    ready = functools.partial(
        chance.stochastic_muzero_policy,
        problems.root(tf.zeros(options.problems)),
        problems.decide,
        problems.happen,
        outcomes=STATES,
        max_depth=2 * HORIZON,
    )
    results["chance nodes"] = curve("chance nodes, PUCT, c 1.25, leaves zero", problems, ready, certain=False)
    result = {
        "command": f"python -m benchmarks.search_quality --problems {options.problems}",
        "seed": SEED,
        "bar": "optimal in at least 95 % at 200 simulations",
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "results": results,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
