"""MuZero learns CartPole-v1 and Pendulum-v1: the bars of `benchmarks/muzero_*.py`, on their seeds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _runs(name):
    subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True, cwd=ROOT)
    result = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    assert [run["seed"] for run in result["runs"]] == [0, 1, 2, 3, 4]
    simulations = result["config"]["simulations"]
    return [(run[f"mean_return_{simulations}_simulations"], run["train_seconds"]) for run in result["runs"]]


@pytest.mark.learning
@pytest.mark.timeout(6000)
def test_four_of_five_seeds_reach_475_on_cartpole():
    runs = _runs("muzero_cartpole")
    assert sum(reached >= 475 for reached, _ in runs) >= 4, runs
    assert all(seconds < 1200 for _, seconds in runs)


@pytest.mark.learning
@pytest.mark.timeout(6000)
def test_pendulum_swings_up_with_drawn_actions():
    runs = _runs("muzero_pendulum")
    assert sum(reached >= -300 for reached, _ in runs) >= 4, runs
