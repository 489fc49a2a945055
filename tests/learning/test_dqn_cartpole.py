"""The Q-network learns CartPole-v1: the bar of `benchmarks/dqn_cartpole.py`, on its seeds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.learning
@pytest.mark.timeout(1800)
def test_four_of_five_seeds_reach_400():
    subprocess.run([sys.executable, "-m", "benchmarks.dqn_cartpole"], check=True, cwd=ROOT)
    result = json.loads((ROOT / "benchmarks" / "results" / "dqn_cartpole.json").read_text())
    assert [row["seed"] for row in result["rows"]] == list(range(10))
    assert all(row["env_steps"] <= 60_000 + 15 for row in result["rows"])
    assert result["seeds_passed"]["chosen_on"] >= 4
    assert result["seeds_passed"]["fresh"] >= 4
