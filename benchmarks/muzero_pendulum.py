"""MuZero with drawn actions on Pendulum-v1: the mean return of 20 episodes of the trained agent.

    python -m benchmarks.muzero_pendulum [--seeds 0 1 2 3 4] [--env-steps 50000]

The bar: at least -300. Prints the curve, writes benchmarks/results/muzero_pendulum.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

from benchmarks import muzero_cartpole
from models import runtime

RESULTS = Path(__file__).parent / "results" / "muzero_pendulum.json"
CONFIG: dict[str, Any] = {
    **muzero_cartpole.CONFIG,
    "env_steps": 50_000,
    "discount": 0.97,
    "n_step": 5,
    "sampled_actions": 16,
    "max_considered": 8,
    "simulations": 32,
    "train_simulations": 16,
    "entropy_weight": 0.01,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--env-steps", type=int, default=CONFIG["env_steps"])
    options = parser.parse_args()
    runtime.single_thread()
    config = {**CONFIG, "env_steps": options.env_steps}
    runs = [muzero_cartpole.run("Pendulum-v1", config, seed) for seed in options.seeds]
    result = {
        "command": "python -m benchmarks.muzero_pendulum",
        "config": config,
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "bar": "at least -300",
        "runs": runs,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
