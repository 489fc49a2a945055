"""Dreamer solves the deterministic frozen lake: the bar of `benchmarks/dreamer_frozenlake.py`, five seeds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.learning
@pytest.mark.timeout(1800)
def test_five_of_five_seeds_reach_the_goal():
    subprocess.run([sys.executable, "-m", "benchmarks.dreamer_frozenlake"], check=True, cwd=ROOT)
    result = json.loads((ROOT / "benchmarks" / "results" / "dreamer_frozenlake.json").read_text())
    assert [row["seed"] for row in result["rows"]] == list(range(5))
    assert all(row["env_steps"] <= 30_000 for row in result["rows"])
    assert [row["return"] for row in result["rows"]] == [1.0] * 5
