"""The other side of `cem_speed`: one plan of mbrl-lib's cross-entropy method; needs torch and mbrl, not us.

    python benchmarks/cem_speed_mbrl.py LAYERS UNITS POPULATION RUNS THREADS

Prints the seconds of each run as JSON, after one that does not count. The same task as there: an ensemble of
5, 5 particles that change members at every step, horizon 15, 5 iterations, 4 inputs and 1 action, learned
rewards, normalised inputs, SiLU.
"""

from __future__ import annotations

import json
import sys
import time
from types import SimpleNamespace

import mbrl.models
import mbrl.planning
import numpy as np
import torch


def main() -> None:
    layers, units, population, runs, threads = (int(argument) for argument in sys.argv[1:])
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network = mbrl.models.GaussianMLP(
        5, 5, "cpu", num_layers=layers, ensemble_size=5, hid_size=units, propagation_method="random_model",
        activation_fn_cfg={"_target_": "torch.nn.SiLU"},
    )  # fmt: skip
    model = mbrl.models.OneDTransitionRewardModel(
        network, target_is_delta=True, normalize=True, learned_rewards=True
    )
    draw = np.random.default_rng(0)
    model.input_normalizer.update_stats(draw.normal(size=(100, 5)).astype(np.float32))
    spaces = SimpleNamespace(observation_space=None, action_space=None)

    def never(action: torch.Tensor, observation: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(observation), 1, dtype=torch.bool)

    world = mbrl.models.ModelEnv(spaces, model, never)
    planner = mbrl.planning.CEMOptimizer(5, 0.1, population, [[-1.0]] * 15, [[1.0]] * 15, 0.1, "cpu", True)
    state = 0.1 * draw.normal(size=4).astype(np.float32)
    times = []
    for _ in range(runs + 1):
        begun = time.perf_counter()
        planner.optimize(lambda plans: world.evaluate_action_sequences(plans, state, 5), torch.zeros(15, 1))
        times.append(time.perf_counter() - begun)
    json.dump(times[1:], sys.stdout)


if __name__ == "__main__":
    main()
