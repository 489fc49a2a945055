"""From records of poor CartPole policies to a planner that balances; about two minutes a seed on one core."""

from __future__ import annotations

import pytest

from benchmarks import trajectory_cartpole


@pytest.mark.learning
@pytest.mark.timeout(3600)
def test_the_planner_balances_from_poor_records() -> None:
    found = trajectory_cartpole.run(0, {})
    assert found["record_mean_return"] <= 150.0
    assert found["beam"]["mean"] >= 400.0
